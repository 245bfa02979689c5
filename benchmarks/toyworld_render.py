"""How fast the toy world is drawn: frames and training samples per processor second.

    python benchmarks/toyworld_render.py [--size 64] [--device cpu] [--sheet docs/images/toyworld.jpg]

The last line is JSON. With --sheet also writes a picture of characters from all sides and in all moods.
"""

import argparse
import json
import math
import sys
import time
from itertools import islice
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F

from gloria_core.conditioning.anchors import EXPRESSIONS
from gloria_core.toyworld.character import held_out_character
from gloria_core.toyworld.clips import ClipOptions, random_clips
from gloria_core.toyworld.poses import Poses
from gloria_core.toyworld.source import Source, make_source, render_sources

REPEATS = 5
NUM_SOURCES, NUM_EACH = 16, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size, device = arguments.size, arguments.device
    sources = [make_source(held_out_character(idx), idx, 24.0, height=size, width=size) for idx in range(NUM_SOURCES)]
    poses = [source.poses(0, NUM_EACH) for source in sources]
    long = sources[0].poses(0, 512)
    results = {
        "size": size,
        "device": device,
        "one video, frames per second": len(long) / best_of(lambda: sources[0].picture(long)),
        "many videos in one call, frames per second": NUM_SOURCES
        * NUM_EACH
        / best_of(lambda: finished(render_sources(sources, poses, device))),
    }
    clips = random_clips(0, ClipOptions(fps=12, num_frames=33, height=size, width=size))
    results["clips of 33 frames with 13 anchors, per second"] = 16 / best_of(lambda: list(islice(clips, 16)))
    if arguments.sheet:
        write_sheet(arguments.sheet, sources[1:4])
    for name, value in results.items():
        print(f"{name}: {value:.0f}" if isinstance(value, float) else f"{name}: {value}")
    print(json.dumps(results))


def best_of(run) -> float:
    """Processor seconds of the fastest of some calls, after a first one."""
    run()
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def finished(frames: torch.Tensor) -> torch.Tensor:
    """Wait for a GPU."""
    if frames.is_cuda:
        torch.cuda.synchronize()
    return frames


def write_sheet(path: Path, sources: list[Source]) -> None:
    """For each character a row of turns and a row of moods, twice enlarged."""
    from PIL import Image

    rows = []
    for source in sources:
        turns = torch.arange(8) * (-math.pi / 4)
        neutral = torch.full((8,), EXPRESSIONS.index("neutral"))
        for yaw_T, worn in ((turns, neutral), (torch.zeros(8), torch.arange(8))):
            rows.append(torch.cat(list(source.picture(still(yaw_T, worn))), 1))
    sheet = torch.cat(rows)
    image = Image.fromarray((sheet * 255).round().byte().numpy())
    image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC).save(path)


def still(yaw_T: torch.Tensor, worn: torch.Tensor) -> Poses:
    """Standing still in the middle."""
    zero_T = torch.zeros(len(yaw_T))
    return Poses(
        yaw_T=yaw_T,
        head_yaw_T=yaw_T,
        x_T=zero_T,
        bob_T=zero_T,
        lean_T=zero_T,
        expression_TE=F.one_hot(worn, len(EXPRESSIONS)).float(),
        speech_T=zero_T,
        camera_T3=torch.tensor([[0.0, 0.51, 1.0]]).expand(len(yaw_T), 3),
    )


if __name__ == "__main__":
    main()
