"""Streaming decode against ComfyUI's `vae.decode` on the same latents, timed in turns; frames must be equal.

Run inside the environment of `python quickstart.py`:
    COMFYUI_PATH=<ComfyUI> python benchmarks/stream_decode.py [--latents 31] [--side 16] [--width 8] [--repeats 5]
"""

import argparse
import asyncio
import importlib.util
import os
import statistics
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def load_pack() -> None:
    """The pack under an importable name, in ComfyUI on the CPU if there is no GPU."""
    import torch

    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    spec = importlib.util.spec_from_file_location("gloria_pack", REPO / "__init__.py")
    pack = importlib.util.module_from_spec(spec)
    sys.modules["gloria_pack"] = pack
    spec.loader.exec_module(pack)
    asyncio.run(pack.comfy_entrypoint())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=31)
    parser.add_argument("--side", type=int, default=16, help="latent cells along height and width")
    parser.add_argument("--width", type=int, default=8, help="channels of the narrowest layer; 96 is the real one")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    load_pack()
    import comfy.sd
    import torch

    from gloria_pack.gloria_core.media.decode_latents import stream_frames
    from gloria_pack.gloria_core.toy_weights import random_state_dict, vae_shapes
    from gloria_pack.nodes.bridge.vae import open_decoder

    vae = comfy.sd.VAE(sd=random_state_dict(dict(vae_shapes(arguments.width)), 0, torch.float32))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 16, arguments.latents, arguments.side, arguments.side, generator=generator)
    decoder = open_decoder(vae, latents)

    def stock() -> torch.Tensor:
        return vae.decode(latents)[0]

    def streamed() -> torch.Tensor:
        return torch.cat(list(stream_frames(decoder, latents)))

    with torch.inference_mode():
        equal = torch.equal(stock(), streamed())
        pairs = []
        for repeat in range(arguments.repeats):
            order = (stock, streamed) if repeat % 2 == 0 else (streamed, stock)
            times = {run.__name__: timed(run) for run in order}
            pairs.append((times["streamed"], times["stock"]))
    ratios = [ours / theirs for ours, theirs in pairs]
    print(
        f"{arguments.latents} latents of {arguments.side}x{arguments.side}, VAE width {arguments.width}, {vae.device}: "
        f"streamed / vae.decode = {statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f}), "
        f"frames equal: {equal}"
    )


def timed(run) -> float:
    """Seconds of one call, which ends on the CPU and so waits for a GPU."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
