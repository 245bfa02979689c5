"""A folder of the demo model's training enters, a sheet of pictures leaves: what the model can do as of now.

    python -m gloria_core.demo.look gloria_demo --scale cpu

sheet_vae.png: held-out clips over what the autoencoder makes of them. sheet_<run>.png, once a run has a checkpoint or
results: held-out clips over what the model samples from the same conditions.

Legend: B clips, C channels, T frames, H W pixels.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..data.cache import CacheStore
from ..data.cache_index import read_index
from ..errors import GloriaError, TrainingError
from ..model.dit import GloriaDiT
from ..sampling.denoise import SampleSettings, denoise_chunk
from ..sampling.plan import Chunk
from ..shapes import LatentSize, latent_frames_for
from ..training.load_model import load_for_training
from ..training.snapshot import find_latest
from ..training.validate import clip_conditions, validation_clips
from .files import BASE, CURRICULUM, DATASETS, PICTURES, DemoFiles
from .latent_scale import denormalized
from .pictures import held_out_clips
from .runs import base_run, curriculum_run
from .sizes import SIZES, DemoSizes
from .wan_vae import WanVae
from .world_cache import frames_of_window, load_vae

logger = logging.getLogger(__name__)

_CLIPS, _FRAMES, _ENLARGED = 4, 9, 2
_STEPS, _CFG, _SHIFT = 20, 2.0, 1.5


def look(sizes: DemoSizes, output: Path) -> list[Path]:
    """Write the sheets that can be made."""
    files, made = DemoFiles(output), []
    is_final = files.vae.exists()
    vae = load_vae(files.vae, torch.device("cpu")) if is_final else _unfinished_vae(sizes, files)
    video_BCTHW = held_out_clips(sizes.world, _FRAMES, _CLIPS, "cpu")
    with torch.inference_mode():
        decoded_BCTHW = vae.decode(vae.encode(video_BCTHW.bfloat16())[0]).float()
    made.append(_write_sheet(output / "sheet_vae.png", _rows(video_BCTHW, decoded_BCTHW)))
    for run in (BASE, *CURRICULUM):
        if find_latest(files.run(run)) is not None:
            made.append(_write_sheet(output / f"sheet_{run}.png", _sampled_rows(sizes, files, run, vae)))
    return made


def _sampled_rows(sizes: DemoSizes, files: DemoFiles, run: str, vae: WanVae) -> list[Tensor]:
    """Every held-out clip over the sampled one; of whole clips the first frame is given."""
    dataset = DATASETS[run]
    store, index = CacheStore(files.cache(dataset)), read_index(files.cache(dataset))
    model = _newest_model(sizes, files, run).eval().float()
    settings = SampleSettings(0, _STEPS, _CFG, _SHIFT, latent_frames_for(frames_of_window(sizes, dataset)))
    rows: list[Tensor] = []
    for clip in validation_clips(index, len(index.clips))[:: max(1, sizes.world.num_held_out)][:_CLIPS]:
        conditions = clip_conditions(store, index, clip, with_anchors=run != BASE)
        if run == PICTURES:
            conditions = replace(conditions, start_BCTHW=None)
        if not model.config.gloria.has_audio:
            conditions = replace(conditions, audio_FLC=None)
        true_1CTHW = store.load(clip.latents)["latents"][None, :, : settings.chunk_latents].float()
        size = LatentSize(*true_1CTHW.shape[1:])
        with torch.inference_mode():
            sampled = denoise_chunk(model, conditions, size, settings, Chunk(0, 0, size.frames, 0), 0, None)
            pair = [vae.decode(denormalized(latents)).float() for latents in (true_1CTHW, sampled.float())]
        rows += _rows(*pair)
    return rows


def _newest_model(sizes: DemoSizes, files: DemoFiles, run: str) -> GloriaDiT:
    """The averaged weights of a run's newest checkpoint."""
    snapshot = find_latest(files.run(run))
    assert snapshot is not None, "asked before"
    config = base_run(sizes, files, "cpu")
    if run != BASE:
        config = curriculum_run(sizes, files, "cpu", run, str(files.result(BASE)))
    text_dim = sizes.encoders.text_width
    model = load_for_training(config, read_index(files.cache(DATASETS[run])), text_dim)
    weights = {**snapshot.load("weights"), **snapshot.load("ema")}
    model.load_state_dict({name: weights.get(name, old) for name, old in model.state_dict().items()})
    return model


def _unfinished_vae(sizes: DemoSizes, files: DemoFiles) -> WanVae:
    snapshot = find_latest(files.vae_run)
    if snapshot is None:
        raise TrainingError(f"{files.root} has no autoencoder yet: run gloria_core.demo.train first.")
    vae = WanVae(sizes.vae.width)
    vae.load_state_dict(snapshot.load("average"))
    return vae.eval()


def _rows(upper_BCTHW: Tensor, lower_BCTHW: Tensor) -> list[Tensor]:
    """Rows [H, W, C] of 0 to 1, one clip over the other."""
    rows = []
    for upper, lower in zip(upper_BCTHW, lower_BCTHW, strict=True):
        for clip_CTHW in (upper, lower):
            frames_THWC = clip_CTHW.movedim(0, -1)[:: max(1, clip_CTHW.shape[1] // _FRAMES)]
            rows.append(torch.cat(list(frames_THWC), dim=1))
    return rows


def _write_sheet(path: Path, rows: Sequence[Tensor]) -> Path:
    from PIL import Image

    sheet_HWC = ((torch.cat(list(rows)) + 1) * 127.5).round().clamp(0, 255).byte()
    image = Image.fromarray(sheet_HWC.numpy())
    image.resize((image.width * _ENLARGED, image.height * _ENLARGED), Image.Resampling.NEAREST).save(path)
    logger.info("wrote %s", path)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m gloria_core.demo.look", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder given to gloria_core.demo.train")
    parser.add_argument("--scale", choices=tuple(SIZES), default="cpu", help="the one it is trained at")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        look(SIZES[options.scale], options.output)
    except GloriaError as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
