"""The ablations of the paper on a demo model, with exact ground truth and intervals: one command.

    python -m benchmarks.toyworld --model gloria_demo/models --output results.json --write docs/benchmarks.md

Each character and arm is one file beside the output, written when it is done; the same command goes on after a stop.
Several processes share the work with `--share 0/8` to `--share 7/8`; a last call without it collects everything.
`python -m gloria_core.demo.train --arm` trains the arms that need weights of their own (docs/demo_model.md).
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from gloria_core.demo.sizes import SIZES
from gloria_core.durable_files import commit_json
from gloria_core.errors import GloriaError
from gloria_core.toyworld.character import NUM_HELD_OUT

from .arms import ARMS, REFERENCES
from .films import PROGRAMS
from .report import markdown, write_between_markers
from .run import open_bench


def run(options: argparse.Namespace) -> str | None:
    """Write the JSON, and the tables if asked; their text, or None where other processes have a share."""
    bench = open_bench(options)
    parts = bench.parts()
    if options.share != (0, 1):
        return None
    result = bench.results(parts)
    commit_json(options.output, result)
    text = markdown(result)
    if options.write is not None:
        write_between_markers(options.write, text)
    return text


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.toyworld", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder with the four files of a demo model")
    parser.add_argument("--output", type=Path, required=True, help="JSON file; parts lie beside it")
    parser.add_argument("--write", type=Path, help="Markdown file whose marked section becomes the tables")
    parser.add_argument("--scale", choices=tuple(SIZES), default="cpu", help="the one the model was trained at")
    parser.add_argument("--identities", type=int, default=NUM_HELD_OUT, help="held-out characters")
    parser.add_argument("--chunks", type=int, default=20, help="of each film")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--arms", nargs="+", choices=(*REFERENCES, *ARMS), help="all by default")
    parser.add_argument(
        "--arm-model", type=_arm_model, action="append", default=[], metavar="NAME=FILE", help="a trained arm's weights"
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cfg", type=float, default=2.0)
    parser.add_argument("--shift", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0, help="of films, anchors and noise")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--share", type=_share, default=(0, 1), metavar="I/N", help="this process's part of the work")
    parser.add_argument("--read-every", type=int, default=1, help="read every so many frames")
    options = parser.parse_args(arguments)
    if not 1 <= options.identities <= NUM_HELD_OUT or options.read_every < 1:
        parser.error(f"--identities is 1 to {NUM_HELD_OUT}, --read-every 1 or more")
    unused = sorted({name for name, _ in options.arm_model} - set(options.arms or ARMS))
    if unused:
        parser.error(f"--arm-model gives {', '.join(unused)}, which --arms leaves out")
    if options.chunks < 2:
        parser.error("--chunks is 2 or more: a film of one chunk has no seam")
    return options


def _arm_model(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    known = [arm.name for arm in ARMS.values() if arm.trained]
    if not path or name not in known:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=FILE with NAME one of {', '.join(known)}")
    return name, Path(path)


def _share(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected I/N from 0/N on, for example 0/8")
    return int(index), int(count)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        text = run(options)
    except GloriaError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    print(text or "This share is done: call again without --share when all are.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
