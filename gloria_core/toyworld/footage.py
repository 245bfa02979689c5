"""Toy characters enter, a folder of footage leaves: videos with sound, labelled anchors and a dataset.json.

    python -m gloria_core.toyworld.footage my_footage --characters 1 --videos 2 --seconds 24
    python -m gloria_core.toyworld.footage assets/doll_footage --held-out --first 24 --seed 45
        --fps 8 --size 128 --clip-frames 37 --clip-stride 20 --anchors 1

The folder is what a user's own footage would be: the Gloria Dataset node and `python -m gloria_core.data.build` take it
as it is, and so does a plain scan when dataset.json is deleted.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from ..data.manifest import (
    MAX_GLOBAL_CANDIDATES,
    Manifest,
    ManifestAnchor,
    ManifestClip,
    ManifestSource,
    write_manifest,
)
from ..media.encode_video import VideoEncoder, VideoFormat, frame_rate, frames_to_bytes
from ..media.mux_film import AudioTrack, mux_film
from ..media.read_audio import SAMPLE_RATE
from ..shapes import TEMPORAL_STRIDE
from .anchors import CropSizes, expression_anchors, viewpoint_anchors
from .character import Character, held_out_character, training_character
from .program import FPS
from .source import Source, make_source

log = logging.getLogger(__name__)

_STREAM = 71
_WRITTEN_FRAMES = 48
# Nearly lossless: small marks must not drown in blocks.
_CRF = 10
_CAPTION = "the character turns, feels and speaks"


@dataclass(frozen=True, kw_only=True)
class FootageOptions:
    """What is filmed of each character.

    Args:
        size: side of the square picture; larger than what is trained on, as footage is.
        clip_stride: frames from the start of a clip to the next one's; None: one behind the other. Clips that overlap
            show a short video in more ways, each with its own caption.
        anchors_per_label: images of each view and expression that each video brings.
    """

    num_videos: int = 2
    seconds: float = 24.0
    fps: float = FPS
    size: int = 256
    clip_frames: int = 121
    clip_stride: int | None = None
    anchors_per_label: int = 2
    seed: int = 0


def write_footage(folder: Path, characters: Sequence[Character], options: FootageOptions | None = None) -> Manifest:
    """Film the characters into `folder` and describe it in its dataset.json.

    Raises:
        MediaError: A video cannot be written.
        DatasetError: dataset.json cannot be written.
    """
    options = options or FootageOptions()
    sources = []
    for character in characters:
        for take in range(options.num_videos):
            # Rooms, programs and voices of a character's videos depend on nothing else in the folder.
            seed = int(np.random.default_rng((_STREAM, options.seed, take)).integers(2**31))
            source = make_source(character, seed, options.fps, options.seconds, options.size, options.size)
            sources.append(_write_source(folder, source, f"{character.name}/take_{take}", seed, options))
            log.info("Wrote %s", sources[-1].video)
    manifest = Manifest(fps=options.fps, sources=tuple(sources))
    write_manifest(folder, manifest)
    return manifest


def write_video(path: Path, source: Source) -> None:
    """The whole video of a source with its sound."""
    rate = frame_rate(source.fps)
    silent = path.with_suffix(".silent.mp4")
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoEncoder(silent, VideoFormat(source.width, source.height, rate, _CRF)) as encoder:
        for first in range(0, source.num_frames, _WRITTEN_FRAMES):
            encoder.write(source.frames(first, min(_WRITTEN_FRAMES, source.num_frames - first)))
    samples = source.samples_N
    track = None if samples is None else AudioTrack(torch.from_numpy(samples)[None], SAMPLE_RATE)
    mux_film([(silent, source.num_frames)], path, rate, track, {}, lambda: None)
    silent.unlink()


def _write_source(folder: Path, source: Source, name: str, seed: int, options: FootageOptions) -> ManifestSource:
    write_video(folder / f"{name}.mp4", source)
    (folder / f"{name}.txt").write_text(_CAPTION + "\n", encoding="utf-8")
    return ManifestSource(
        id=name,
        video=f"{name}.mp4",
        caption=_CAPTION,
        clips=_clips(source, options.clip_frames, options.clip_stride),
        anchors=(*_global_candidates(source), *_write_anchors(folder, source, name, seed, options)),
    )


def _clips(source: Source, clip_frames: int, stride: int | None) -> tuple[ManifestClip, ...]:
    """Stretches at equal distances, each with its own prompt."""
    length = min(clip_frames, (source.num_frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1)
    firsts = range(0, source.num_frames - length + 1, stride or length)
    return tuple(
        ManifestClip(start=first / source.fps, frames=length, caption=source.prompt(first, length)) for first in firsts
    )


def _global_candidates(source: Source) -> tuple[ManifestAnchor, ...]:
    frames = [round((idx + 0.5) * source.num_frames / MAX_GLOBAL_CANDIDATES) for idx in range(MAX_GLOBAL_CANDIDATES)]
    return tuple(ManifestAnchor(kind="global", label="global", time=frame / source.fps) for frame in frames)


def _write_anchors(
    folder: Path, source: Source, name: str, seed: int, options: FootageOptions
) -> tuple[ManifestAnchor, ...]:
    """Crops as image files; a plain scan finds them by their names."""
    from PIL import Image

    rng = np.random.default_rng((_STREAM, seed))
    sizes = CropSizes((options.size, options.size * 3 // 4), (options.size * 3 // 4, options.size * 3 // 4))
    place, take = Path(name).parent / "anchors", Path(name).name
    (folder / place).mkdir(parents=True, exist_ok=True)
    written = []
    for number in range(options.anchors_per_label):
        crops = viewpoint_anchors(source, rng, VIEWPOINTS, sizes), expression_anchors(source, rng, EXPRESSIONS, sizes)
        for anchor in (anchor for group in crops for anchor in group.anchors):
            file = place / f"{anchor.label}_{take}_{number}.png"
            Image.fromarray(frames_to_bytes(anchor.image_HWC[None])[0].numpy()).save(folder / file)
            written.append(ManifestAnchor(kind=anchor.kind, label=anchor.label, image=file.as_posix()))
    return tuple(written)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gloria_core.toyworld.footage", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--characters", type=int, default=1)
    parser.add_argument(
        "--held-out", action="store_true", help="film characters that no demo model has been trained on"
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first character")
    parser.add_argument("--videos", type=int, default=2, help="of each character")
    parser.add_argument("--seconds", type=float, default=24.0)
    parser.add_argument("--fps", type=float, default=FPS)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0, help="rooms, programs and voices; the same for every character")
    parser.add_argument("--clip-frames", type=int, default=121, help="4n + 1; each clip has a caption of its own")
    parser.add_argument("--clip-stride", type=int, help="frames from clip to clip (default: one behind the other)")
    parser.add_argument("--anchors", type=int, default=2, help="images of each view and expression of each video")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    make = held_out_character if arguments.held_out else training_character
    options = FootageOptions(
        num_videos=arguments.videos, seconds=arguments.seconds, fps=arguments.fps, size=arguments.size,
        clip_frames=arguments.clip_frames, clip_stride=arguments.clip_stride, anchors_per_label=arguments.anchors,
        seed=arguments.seed,
    )  # fmt: skip
    numbers = range(arguments.first, arguments.first + arguments.characters)
    write_footage(arguments.folder, [make(number) for number in numbers], options)


if __name__ == "__main__":
    main()
