"""One denoise step of our DiT against ComfyUI's WanModel at the same number of tokens, timed in turns.

Run inside the environment of `python quickstart.py`:
    COMFYUI_PATH=<ComfyUI> python benchmarks/dit_step.py [--preset toy|5b|14b] [--repeats 9]

Without anchors both models get the same video. With anchors, WanModel gets a longer video with the same
number of tokens, because that is the cheapest way a stock model can hold them.
"""

import argparse
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO))
sys.path.insert(0, os.environ["COMFYUI_PATH"])

import torch  # noqa: E402
from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = not torch.cuda.is_available()

import comfy.ldm.flux.math  # noqa: E402
import comfy.ldm.modules.attention  # noqa: E402
import comfy.ops  # noqa: E402
from comfy.ldm.wan.model import WanModel  # noqa: E402

from gloria_core.model.attention import Kernels  # noqa: E402
from gloria_core.model.dit import GloriaDiT  # noqa: E402
from gloria_core.model.presets import TOY_T2V, WAN21_T2V_14B, WAN22_TI2V_5B  # noqa: E402

MEDIUM = replace(TOY_T2V, dim=1024, ffn_dim=4096, num_heads=8, num_layers=6, text_dim=4096)
PRESETS = {"toy": (TOY_T2V, 8, 16, 16), "medium": (MEDIUM, 4, 30, 52), "5b": (WAN22_TI2V_5B, 31, 30, 52),
           "14b": (WAN21_T2V_14B, 31, 60, 104)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", choices=PRESETS, default="toy")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    config, frames, height, width = PRESETS[arguments.preset]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    wan, ours = build(config, device, dtype)

    anchor_frames = 2  # anchors of 2 video frames' worth of tokens: comparable with a longer stock video
    video = torch.randn(1, config.in_dim, frames, height, width, device=device, dtype=dtype)
    longer = torch.randn(1, config.in_dim, frames + anchor_frames, height, width, device=device, dtype=dtype)
    anchors = [torch.randn(1, config.out_dim, 1, height, width, device=device, dtype=dtype) for _ in range(2)]
    slots = (("global", "global"), ("viewpoint", "back"))
    context = torch.randn(1, 512, config.text_dim, device=device, dtype=dtype)
    timestep = torch.tensor([500.0], device=device)
    cases = {
        "no anchors": (lambda: wan(video, timestep, context), lambda: ours(video, timestep, context)),
        "anchors": (
            lambda: wan(longer, timestep, context),
            lambda: ours(video, timestep, context, anchors=anchors, anchor_slots=slots),
        ),
    }
    tokens = frames * (height // 2) * (width // 2)
    print(f"{arguments.preset}: {tokens} tokens, width {config.dim}, {config.num_layers} blocks, {device} {dtype}")
    for name, (stock, mine) in cases.items():
        ratios, stock_times, our_times = compare(stock, mine, arguments.repeats)
        print(
            f"{name}: ours / WanModel = {statistics.median(ratios):.3f} "
            f"(min {min(ratios):.3f}, max {max(ratios):.3f}), "
            f"medians {statistics.median(our_times):.3f} s and {statistics.median(stock_times):.3f} s"
        )


def build(config, device, dtype):
    """Both models with equal random weights."""
    kernels = Kernels(comfy.ldm.modules.attention.optimized_attention, comfy.ldm.flux.math.apply_rope1)
    wan = WanModel(
        model_type=config.model_type, in_dim=config.in_dim, out_dim=config.out_dim, dim=config.dim,
        ffn_dim=config.ffn_dim, num_heads=config.num_heads, num_layers=config.num_layers, text_dim=config.text_dim,
        operations=comfy.ops.disable_weight_init, dtype=dtype, device=device,
    ).eval()  # fmt: skip
    for parameter in wan.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    ours = GloriaDiT(config, kernels, comfy.ops.disable_weight_init, device="meta", dtype=dtype).eval()
    ours.load_state_dict(wan.state_dict(), assign=True)
    return wan, ours


@torch.no_grad()
def compare(stock, mine, repeats):
    """Pairs of runs, the order swapped every time, after one warm-up each."""
    stock(), mine()
    ratios, stock_times, our_times = [], [], []
    for repeat in range(repeats):
        pair = [timed(stock), timed(mine)] if repeat % 2 == 0 else [timed(mine), timed(stock)][::-1]
        stock_times.append(pair[0])
        our_times.append(pair[1])
        ratios.append(pair[1] / pair[0])
    return ratios, stock_times, our_times


def timed(run):
    """Seconds of one call, all kernels finished."""
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def synchronize():
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
