"""Peak memory of the whole process that samples and decodes a film, for films of growing length.

Run inside the environment of `python quickstart.py`:
    COMFYUI_PATH=<ComfyUI> python benchmarks/long_run_memory.py [--minutes 1 10]

Each length runs in a process of its own: the real nodes Load Gloria Model, Gloria Conditioning, Gloria Long Video
Sampler and Gloria Decode Video in a real ComfyUI on the CPU, toy weights, two steps per chunk. Fails if memory grows
by more than 5 % from the first length to the last.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
FPS, SIDE, STEPS = 24, 32, 2


def start_comfyui(base: Path):
    """ComfyUI on the CPU with its folders in `base`, and the pack loaded as ComfyUI loads it."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu, args.base_directory = True, str(base)
    for name in ("custom_nodes", "input", "output", "temp", "user", "models/diffusion_models", "models/vae"):
        (base / name).mkdir(parents=True)
    spec = importlib.util.spec_from_file_location("gloria_pack", REPO / "__init__.py")
    pack = importlib.util.module_from_spec(spec)
    sys.modules["gloria_pack"] = pack
    spec.loader.exec_module(pack)
    asyncio.run(asyncio.run(pack.comfy_entrypoint()).on_load())


def _with_hidden_inputs(node):
    """The node class as ComfyUI's executor prepares it."""
    return node.PREPARE_CLASS_CLONE({"hidden_inputs": {}})


def make_film(minutes: float, base: Path) -> dict[str, float]:
    """Sample and decode one film, and report this process's peak memory."""
    start_comfyui(base)
    import comfy.sd
    import torch
    from safetensors.torch import load_file

    from gloria_pack.gloria_core.model.presets import TOY_I2V
    from gloria_pack.gloria_core.toy_weights import write_toy_dit, write_toy_vae
    from gloria_pack.nodes.condition import GloriaCondition
    from gloria_pack.nodes.decode_video import GloriaDecodeVideo
    from gloria_pack.nodes.load_model import GloriaLoadModel
    from gloria_pack.nodes.sample_long_video import GloriaSampleLongVideo

    write_toy_dit(base / "models/diffusion_models/dit.safetensors", TOY_I2V)
    write_toy_vae(base / "models/vae/vae.safetensors")
    started = time.monotonic()
    vae = comfy.sd.VAE(sd=load_file(base / "models/vae/vae.safetensors"))
    model = GloriaLoadModel.execute("dit.safetensors", "none", "default").result[0]
    prompt = [[torch.zeros(1, 8, TOY_I2V.text_dim), {}]]
    image = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    positive, negative, latent = GloriaCondition.execute(
        prompt, prompt, vae, SIDE, SIDE, round(minutes * 60 * FPS), start_image=image
    ).result
    film = _with_hidden_inputs(GloriaSampleLongVideo).execute(
        model, positive, negative, latent, 0, STEPS, 1.0, "euler", "simple", 5.0, 121, "memory"
    ).result[0]
    sampled = time.monotonic()
    video = _with_hidden_inputs(GloriaDecodeVideo).execute(film, vae, FPS, "film", 17).result[0]
    return {
        "minutes": minutes,
        "frames": video.get_frame_count(),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "sampling_seconds": round(sampled - started, 1),
        "decoding_seconds": round(time.monotonic() - sampled, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10])
    parser.add_argument("--alone", action="store_true", help="measure the first length in this process")
    arguments = parser.parse_args()
    if arguments.alone:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(make_film(arguments.minutes[0], Path(folder))))
        return
    peaks = []
    for minutes in arguments.minutes:
        command = [sys.executable, __file__, "--alone", "--minutes", str(minutes)]
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        print(line, flush=True)
        peaks.append(json.loads(line)["peak_mb"])
    growth = peaks[-1] / peaks[0] - 1
    print(json.dumps({"growth_percent": round(100 * growth, 2)}))
    if growth > 0.05:
        raise SystemExit("Memory grows with length.")


if __name__ == "__main__":
    main()
