"""Errors of the toy world's readings on pictures whose truth is known: clean, noisy, blurred, and of other things.

    python benchmarks/toyworld_readout.py [--characters 8] [--frames 24] [--size 64] [--device cpu]

Prints one row for each disturbance, and as the last line everything as JSON.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F

from gloria_core.toyworld.character import held_out_character
from gloria_core.toyworld.readout import Reader, Reading
from gloria_core.toyworld.source import Source, make_source

FPS = 12.0
NOISES = (0.0, 0.05, 0.1, 0.2)
BLURS = (0.6, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--characters", type=int, default=8)
    parser.add_argument("--frames", type=int, default=24, help="frames of each character")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, strangers, nothings = [], [], []
    start = time.process_time()
    for number in range(arguments.characters):
        source = make_source(
            held_out_character(number), 1000 + number, FPS, height=arguments.size, width=arguments.size
        )
        reader = Reader(source, arguments.device)
        generator = torch.Generator().manual_seed(number)
        rows.append(errors_of_character(source, reader, arguments.frames, generator))
        strangers.append(reader.read(stranger(number, arguments.size, generator)).is_readable_T)
        nothings.append(reader.read(nothing(arguments.size, generator)).is_readable_T)
    num_read = arguments.characters * arguments.frames * len(rows[0]) + len(torch.cat(strangers + nothings))
    rate = num_read / (time.process_time() - start)
    table = {case: summary([row[case] for row in rows]) for case in rows[0]}
    report(table)
    table["strangers readable"] = torch.cat(strangers).float().mean().item()
    table["nothing readable"] = torch.cat(nothings).float().mean().item()
    print(f"another character in another room is readable in {table['strangers readable']:.3f} of its pictures")
    print(f"noise and gray are readable in {table['nothing readable']:.3f} of the pictures")
    print(f"{rate:.1f} frames per processor second with all preparation, on {arguments.device}")
    print(json.dumps(table))


def errors_of_character(
    source: Source, reader: Reader, num_frames: int, generator: torch.Generator
) -> dict[str, dict[str, torch.Tensor]]:
    """Errors on random frames of one video, for each disturbance."""
    frames = torch.randint(source.num_frames, (num_frames,), generator=generator)
    poses = source.poses(0, source.num_frames)[frames]
    clean = source.picture(poses)
    pictures = {f"noise {sigma}": clean + sigma * torch.randn(clean.shape, generator=generator) for sigma in NOISES}
    pictures |= {f"blur {sigma}": blurred(clean, sigma) for sigma in BLURS}
    return {case: errors(source, poses, reader.read(disturbed)) for case, disturbed in pictures.items()}


def errors(source: Source, truth, reading: Reading) -> dict[str, torch.Tensor]:
    """For each quantity its errors (or rightness) over the frames where it can be asked."""
    character = source.character
    readable = reading.is_readable_T
    settled = truth.expression_TE.amax(1) > 0.95
    face = settled & (truth.head_yaw_T.abs() < math.radians(40))
    expression_T = truth.expression_TE.argmax(1)
    quirk_T = torch.tensor(character.quirks)[expression_T]
    seen = reading.sees_mark_TV
    shape_V = torch.tensor([mark.shape for mark in character.marks])
    color_V = torch.tensor([mark.color for mark in character.marks])
    mark = (reading.mark_shape_TV == shape_V) & (reading.mark_color_TV == color_V) & readable[:, None]
    return {
        "yaw": degrees_between(reading.poses.yaw_T, truth.yaw_T),
        "head yaw": degrees_between(reading.poses.head_yaw_T, truth.head_yaw_T)[truth.head_yaw_T.abs() < 2],
        "expression": ((reading.expressions() == expression_T) & readable)[face].float(),
        "quirk": ((reading.quirk_T == quirk_T) & readable)[face].float(),
        "torso mark": mark[:, :2][seen[:, :2]].float(),
        "sleeve mark": mark[:, 2:][seen[:, 2:]].float(),
        "mouth": (reading.poses.mouth() - truth.mouth()).abs()[face],
        "place px": place_error(source, truth, reading),
        "zoom %": 100 * (reading.poses.camera_T3[:, 2] / truth.camera_T3[:, 2] - 1).abs(),
        "room dE": reading.room_delta_T,
        "palette dE": reading.palette_delta_T,
        "misfit": reading.misfit_T,
        "readable": readable.float(),
    }


def place_error(source: Source, truth, reading: Reading) -> torch.Tensor:
    """Distance of the character's axis in the picture from where it is, in pixels."""

    def place(poses):
        return (poses.x_T - poses.camera_T3[:, 0]) * poses.camera_T3[:, 2] * source.height / 1.16

    return (place(reading.poses) - place(truth)).abs()


def degrees_between(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Angles between directions."""
    return torch.rad2deg((torch.remainder(first - second + math.pi, 2 * math.pi) - math.pi).abs())


def blurred(frames_THWC: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of `sigma` pixels."""
    offsets = torch.arange(-4, 5)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    frames = F.pad(frames_THWC.movedim(-1, 1), (4, 4, 4, 4), mode="replicate")
    frames = F.conv2d(F.conv2d(frames, kernel, groups=3), kernel.mT, groups=3)
    return frames.movedim(1, -1)


def stranger(number: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Another character in another room."""
    other = make_source(held_out_character(63 - number), 5000 + number, FPS, height=size, width=size)
    frames = torch.randint(other.num_frames, (8,), generator=generator)
    return other.picture(other.poses(0, other.num_frames)[frames])


def nothing(size: int, generator: torch.Generator) -> torch.Tensor:
    """Noise and a gray picture."""
    noise = torch.rand(4, size, size, 3, generator=generator)
    return torch.cat([noise, torch.full((1, size, size, 3), 0.5)])


def summary(rows: list[dict[str, torch.Tensor]]) -> dict[str, dict[str, float]]:
    """Mean, median and 95th percentile over all characters."""
    result = {}
    for name in rows[0]:
        values = torch.cat([row[name] for row in rows]).numpy()
        quantiles = {"median": np.median(values), "p95": np.percentile(values, 95), "max": values.max()}
        result[name] = {
            "mean": float(values.mean()),
            "count": len(values),
            **{k: float(v) for k, v in quantiles.items()},
        }
    return result


def report(table: dict[str, dict[str, dict[str, float]]]) -> None:
    """The table for people."""
    shares = ("expression", "quirk", "torso mark", "sleeve mark", "readable")
    lengths = ("yaw", "head yaw", "mouth", "place px", "zoom %", "room dE", "palette dE", "misfit")
    print(
        "| picture | "
        + " | ".join([f"{name}, median (p95)" for name in lengths] + [f"{name} right" for name in shares])
        + " |"
    )
    print("|---" * (1 + len(lengths) + len(shares)) + "|")
    for case, values in table.items():
        cells = [f"{values[name]['median']:.3g} ({values[name]['p95']:.3g})" for name in lengths]
        cells += [f"{values[name]['mean']:.3f} of {values[name]['count']}" for name in shares]
        print(f"| {case} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
