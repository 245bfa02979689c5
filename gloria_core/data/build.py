"""A folder of videos enters, a dataset cache leaves: everything encoded that training reads.

    python -m gloria_core.data.build FOLDER --scan
    python -m gloria_core.data.build FOLDER --cache CACHE --vae VAE --text-encoder UMT5 --audio-encoder WAV2VEC2

The first writes FOLDER/dataset.json, to be read and mended by hand; the second goes by it, or by the videos in the
folder when there is none. What is encoded already is used again: a stopped build goes on. Encoders are local folders
in the layout of diffusers and transformers; nothing is downloaded. docs/training.md describes folder and file.
"""

import argparse
import functools
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import DatasetError, GloriaError
from ..training.config import PAPER_EXPRESSION_SHARES, PAPER_VIEWPOINT_SHARES
from .cache_index import CacheIndex
from .encoders import load_encoders
from .manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from .precompute import CacheSettings, build_cache
from .scan_folder import DEFAULT_CLIP_FRAMES, ScanOptions, scan_folder

logger = logging.getLogger(__name__)


def find_manifest(folder: Path, options: ScanOptions) -> Manifest:
    """The folder's own dataset.json, or a description of the videos in it."""
    return read_manifest(folder) if (folder / MANIFEST_NAME).exists() else scan_folder(folder, options)


def report(index: CacheIndex) -> str:
    """What a cache holds, for people: clips, sizes, and the anchors beside the paper's shares."""
    splits = Counter(clip.split for clip in index.clips)
    seconds = sum((4 * clip.num_latents - 3) / index.fps for clip in index.clips)
    sizes = Counter(f"{clip.width}x{clip.height}x{4 * clip.num_latents - 3}" for clip in index.clips)
    lines = [
        f"{len(index.sources)} videos, {splits['train']} training and {splits['validation']} validation clips, "
        f"{seconds:.0f} s",
        "sizes: " + ", ".join(f"{size} ({count})" for size, count in sizes.most_common()),
        f"clips with speech features: {sum(clip.audio is not None for clip in index.clips)} of {len(index.clips)}",
    ]
    labels = Counter((anchor.kind, anchor.label) for source in index.sources for anchor in source.anchors)
    lines.append(f"global anchor candidates: {labels['global', 'global']}")
    for kind, shares in (("viewpoint", PAPER_VIEWPOINT_SHARES), ("expression", PAPER_EXPRESSION_SHARES)):
        total = sum(count for (of_kind, _), count in labels.items() if of_kind == kind)
        if not total:
            lines.append(f"{kind} anchors: none; only the global anchor can be trained")
            continue
        parts = (f"{name} {100 * labels[kind, name] / total:.0f} % (paper {share})" for name, share in shares.items())
        lines.append(f"{kind} anchors: {total}: " + ", ".join(parts))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m gloria_core.data.build", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = functools.partial(parser.add_argument, metavar="FOLDER", type=Path)
    add("folder", help="videos with captions and anchor images, or a dataset.json and the files it names")
    parser.add_argument("--scan", action="store_true", help="only write FOLDER/dataset.json, by the videos in it")
    add("--cache", help="where the encoded dataset goes")
    add("--vae", help="AutoencoderKLWan of the base")
    add("--text-encoder", help="UMT5 encoder; its tokenizer in the same folder or in 'tokenizer' beside it")
    add("--audio-encoder", help="wav2vec2 model; without one speech is not learned")
    add("--clip-vision", help="CLIP vision model, for Wan 2.1 I2V; its processor inside or in 'image_processor' beside")
    parser.add_argument("--image-channels", action="store_true", help="for Wan 2.1 I2V and Wan 2.2 I2V-A14B bases")
    parser.add_argument("--size", default="480p", help="480p (default), 704p, 720p or WIDTHxHEIGHT; 704p for TI2V-5B")
    parser.add_argument(
        "--clip-frames", type=int, default=DEFAULT_CLIP_FRAMES,
        help=f"length of the clips that videos without a dataset.json are cut into ({DEFAULT_CLIP_FRAMES})",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to encode (cpu)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if options.scan == bool(options.cache):
        parser.error("give either --scan or --cache")
    if options.cache and not (options.vae and options.text_encoder):
        parser.error("--cache needs --vae and --text-encoder")
    try:
        _run(options)
    except GloriaError as error:
        logger.error("%s", error)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    scan = ScanOptions(clip_frames=options.clip_frames)
    if options.scan:
        if (options.folder / MANIFEST_NAME).exists():
            raise DatasetError(
                f"{options.folder / MANIFEST_NAME} exists and may hold what was mended by hand. Rename or delete it to "
                "scan again, or leave --scan out to build by it."
            )
        write_manifest(options.folder, scan_folder(options.folder, scan))
        logger.info("wrote %s", options.folder / MANIFEST_NAME)
        return
    manifest = find_manifest(options.folder, scan)
    encoders = load_encoders(
        options.vae, options.text_encoder, options.audio_encoder, options.clip_vision, options.device
    )
    settings = CacheSettings(size=options.size, image_channels=options.image_channels)

    def log_progress(done: int, total: int, text: str) -> None:
        logger.info("%d of %d: %s", done, total, text)

    index = build_cache(manifest, options.folder, options.cache, encoders, settings, log_progress)
    logger.info("%s", report(index))


if __name__ == "__main__":
    sys.exit(main())
