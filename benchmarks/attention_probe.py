"""What looking at attention costs: a pass in which every block is looked at over one without a probe, in turns.

    OMP_NUM_THREADS=1 python benchmarks/attention_probe.py [--repeats 5] [--frames 8] [--device cuda]

Width 1024, 4 blocks, random weights, 390 tokens a latent frame, two anchors. Prints processor seconds (on a GPU: wall
seconds) and, beside them, the ratio of operations.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch

from gloria_core.analysis.attention_probe import AttentionProbe
from gloria_core.model.attention import PROBE_OPTION
from gloria_core.model.dit import GloriaDiT
from gloria_core.model.presets import TOY_T2V
from gloria_core.sampling.cost import DiTShape, forward_flops
from gloria_core.shapes import LatentSize
from gloria_core.toy_weights import random_state_dict

CONFIG = replace(TOY_T2V, dim=1024, ffn_dim=4096, num_heads=8, num_layers=4)
HEIGHT, WIDTH, TEXT_TOKENS = 30, 52, 64
SLOTS = (("global", "global"), ("viewpoint", "back"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = GloriaDiT(CONFIG, device=device, dtype=dtype).eval()
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    model.load_state_dict(random_state_dict(shapes, 0, torch.float32))
    video = torch.randn(1, CONFIG.in_dim, options.frames, HEIGHT, WIDTH, device=device, dtype=dtype)
    anchors = [torch.randn(1, CONFIG.out_dim, 1, HEIGHT, WIDTH, device=device, dtype=dtype) for _ in SLOTS]
    context = torch.randn(1, TEXT_TOKENS, CONFIG.text_dim, device=device, dtype=dtype)

    def run(probe: AttentionProbe | None) -> None:
        watched = {} if probe is None else {PROBE_OPTION: probe, "sigmas": torch.tensor([0.5])}
        model(video, torch.tensor([500.0], device=device), context, None, anchors, SLOTS, None, watched)

    pairs = [seconds_of_pair(run, device) for _ in range(options.repeats + 1)][1:]
    ratios = [watched / plain for plain, watched in pairs]
    num_video = LatentSize(CONFIG.out_dim, options.frames, HEIGHT, WIDTH).grid.count
    num_anchor = sum(LatentSize(CONFIG.out_dim, 1, HEIGHT, WIDTH).grid.count for _ in SLOTS)
    shape = DiTShape(CONFIG.dim, CONFIG.ffn_dim, CONFIG.num_layers, TEXT_TOKENS)
    looks = 2.0 * num_video * (num_video + num_anchor) * CONFIG.dim * CONFIG.num_layers
    operations = 1 + looks / forward_flops(shape, num_video, num_anchor)
    print(f"{num_video} video tokens and {num_anchor} of anchors on {device}: one pass {pairs[0][0]:.2f} s")
    print(f"looked at / not: {statistics.median(ratios):.3f} ({min(ratios):.3f}, {max(ratios):.3f})")
    print(f"the same in operations: {operations:.3f}")


@torch.inference_mode()
def seconds_of_pair(run: Callable[[AttentionProbe | None], None], device: torch.device) -> tuple[float, float]:
    """Seconds of a pass without and with a probe that looks at every block."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds = []
    for probe in (None, AttentionProbe([1.0, 0.0], (0,), range(CONFIG.num_layers))):
        start = clock()
        run(probe)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return seconds[0], seconds[1]


if __name__ == "__main__":
    main()
