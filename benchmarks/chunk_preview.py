"""What the player's preview of one chunk costs, rough and with a VAE: seconds for 31 latents, in ComfyUI's own classes.

Run: COMFYUI_PATH=<ComfyUI> python benchmarks/chunk_preview.py [--width 832] [--height 480] [--vae FILE] [--cpu]
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

REPO = Path(__file__).resolve().parents[1]
CHUNK_LATENTS = 31


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--vae", type=Path, help="a Wan 2.1 VAE or a TAEHV; without it rough previews alone")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()

    sys.argv[1:] = []
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = options.cpu
    # Only now: ComfyUI reads its arguments when it is imported.
    import importlib.util

    spec = importlib.util.spec_from_file_location("gloria_pack", REPO / "__init__.py")
    sys.modules["gloria_pack"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    measure(options)


def measure(options: argparse.Namespace) -> None:
    import comfy.latent_formats
    import comfy.model_management
    import comfy.sd
    import comfy.utils

    from gloria_pack.gloria_core.sampling.journal import Journal
    from gloria_pack.gloria_core.sampling.plan import plan_chunks
    from gloria_pack.nodes.bridge.player_previews import ChunkPreviews
    from gloria_pack.nodes.bridge.sampling import Film

    class Model:
        class model:  # noqa: N801
            latent_format = comfy.latent_formats.Wan21()

    height, width = options.height // 8, options.width // 8
    plan = plan_chunks(2 * CHUNK_LATENTS - 4, CHUNK_LATENTS)
    latent = {"samples": torch.zeros(1, 16, plan.total_latents, 1, 1).expand(-1, -1, -1, height, width)}
    audio = {"waveform": torch.randn(1, 1, 16_000 * 60) * 0.1, "sample_rate": 16_000}
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(options.vae))) if options.vae else None
    device = comfy.model_management.get_torch_device_name(comfy.model_management.get_torch_device())
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.inference_mode(),
        Journal(Path(folder), "bench", {}, plan, (16, height, width), {}) as journal,
    ):
        for chunk in plan.chunks:
            journal.commit(chunk, 0, journal.prefix_for(chunk), smooth_noise(chunk.length, height, width))
        for name, decoder in [("rough", None)] + ([("VAE", vae)] if vae else []):
            film = Film(Model, None, 0.9, [], [], latent, 1, 1.0, "euler", "simple")
            previews = ChunkPreviews(film, journal, decoder, audio)
            for chunk in plan.chunks:  # the first one also loads libraries
                start = time.perf_counter()
                problem = previews.make(chunk)
                seconds = time.perf_counter() - start
            print(f"{name}: {seconds:.2f} s for a chunk of {options.width}x{options.height} on {device}", problem or "")


def smooth_noise(frames: int, height: int, width: int) -> torch.Tensor:
    """Latents that move and have edges, but can be encoded like a film: plain noise cannot."""
    coarse = torch.randn(1, 16, max(2, frames // 8), max(2, height // 8), max(2, width // 8))
    return torch.nn.functional.interpolate(coarse, (frames, height, width), mode="trilinear")


if __name__ == "__main__":
    main()
