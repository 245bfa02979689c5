"""A held-out toy character enters, the pictures of the demo's anchor board leave.

    python -m gloria_core.demo.example_pictures assets --character 7

doll_global.png, and one picture of each view and expression, six times as large as the demo model's own, as a user's
would be.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..conditioning.anchors import Anchor
from ..media.encode_video import frames_to_bytes
from ..toyworld.anchors import DEFAULT_CROPS, CropSizes, expression_anchors, global_anchor, viewpoint_anchors
from ..toyworld.character import held_out_character
from ..toyworld.program import Program
from ..toyworld.scene import make_scene
from ..toyworld.source import DEFAULT_SIZE, Source
from .sizes import CPU

logger = logging.getLogger(__name__)

DEMO_CHARACTER = 7
_ENLARGED = 6
_STREAM = 7
# Rooms are drawn from seeds; the shipped model was trained in those of 0 to 499.
_FIRST_ROOM = 500


def example_source(character: int, side: int = DEFAULT_SIZE) -> Source:
    """A held-out character who stands still in its room and is silent, in pictures of `side` x `side`.

    Raises:
        ToyWorldError: No such character.
    """
    scene = make_scene(_FIRST_ROOM + character)
    return Source(held_out_character(character), scene, Program(seconds=1.0), None, CPU.world.fps, side, side)


def example_anchors(character: int) -> tuple[Anchor, ...]:
    """The global anchor, four views and eight expressions, `_ENLARGED` times as large as the demo model's.

    Raises:
        ToyWorldError: No such character.
    """
    source = example_source(character, DEFAULT_SIZE * _ENLARGED)
    rng = np.random.default_rng(_STREAM)
    crops = CropSizes(_enlarged(DEFAULT_CROPS.viewpoint), _enlarged(DEFAULT_CROPS.expression))
    views, faces = viewpoint_anchors(source, rng, sizes=crops), expression_anchors(source, rng, sizes=crops)
    return (*global_anchor(source, 0).anchors, *views.anchors, *faces.anchors)


def _enlarged(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] * _ENLARGED, size[1] * _ENLARGED


def write_example_pictures(folder: Path, character: int) -> list[Path]:
    """Write doll_<slot>.png for every slot of the board."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for anchor in example_anchors(character):
        path = folder / f"doll_{anchor.label}.png"
        Image.fromarray(frames_to_bytes(anchor.image_HWC[None])[0].numpy()).save(path, optimize=True)
        written.append(path)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m gloria_core.demo.example_pictures", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path)
    parser.add_argument("--character", type=int, default=DEMO_CHARACTER, help="number of a held-out one")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logger.info("wrote %d pictures", len(write_example_pictures(options.folder, options.character)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
