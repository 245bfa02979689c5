"""A demo model, a film and an arm enter, the frames that the model makes leave; so do those of the references.

The film goes through the shipped chunk engine and sampler; only what the arm changes differs. Every chunk has the
prompt of its own stretch, prefix included, as the captions of training have it.

Legend: T frames, C latent channels or colors, H W pixels or latent cells, B videos (1), F video frames.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gloria_core.analysis.attention_probe import AttentionProbe, AttentionShares, ProbeSettings
from gloria_core.conditioning.anchors import EXPRESSIONS, VIEWPOINTS
from gloria_core.conditioning.audio import null_audio
from gloria_core.demo.files import ModelFiles
from gloria_core.demo.latent_scale import denormalized
from gloria_core.demo.sizes import WorldSizes
from gloria_core.demo.wan_vae import WanVae
from gloria_core.demo.world_cache import DemoEncoders, load_demo_encoders, load_vae
from gloria_core.errors import CheckpointError
from gloria_core.media.decode_latents import WARM_UP_LATENTS
from gloria_core.model.checkpoint import load_dit
from gloria_core.model.dit import GloriaDiT
from gloria_core.sampling.denoise import Conditions, SampleSettings, denoise_chunk
from gloria_core.sampling.engine import run_chunks
from gloria_core.sampling.journal import Journal
from gloria_core.sampling.plan import Chunk, ChunkPlan, plan_chunks
from gloria_core.sampling.schedule import flow_sigmas
from gloria_core.shapes import TEMPORAL_STRIDE, LatentSize, pixel_frames_for
from gloria_core.toyworld.character import Mark
from gloria_core.toyworld.palette import MARK_COLORS
from gloria_core.toyworld.program import make_program
from gloria_core.toyworld.shapes2d import MARK_SHAPES
from gloria_core.toyworld.speech import make_speech

from .arms import Arm
from .films import Film, frames_of, seams_of

_STREAM = 223
_DECODED_LATENTS = 64


@dataclass(frozen=True)
class Lab:
    """Models and settings of a run."""

    model: GloriaDiT
    encoders: DemoEncoders
    vae: WanVae
    world: WorldSizes
    settings: SampleSettings

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.model.patch_embedding.weight.device


class Shot(NamedTuple):
    """A film as an arm made it."""

    frames_THWC: Tensor
    seams: list[int]
    chunk_seconds: float | None
    """Of denoising, on average; None for references."""
    attention: tuple[AttentionShares, ...] = ()
    """Of each chunk, if a probe was asked for."""


def load_lab(folder: Path, world: WorldSizes, settings: SampleSettings, device: torch.device) -> Lab:
    """The demo model of a folder with its four files.

    Raises:
        CheckpointError: Not such a folder, or a model that has not gone through the stages.
    """
    files = ModelFiles(folder)
    missing = [path for path in (files.dit, *files.encoders) if not path.exists()]
    if missing:
        inside = folder / "models"
        hint = f" Give {inside}." if inside.is_dir() else " docs/demo_model.md tells how they are trained."
        raise CheckpointError(f"{folder} is no folder of a demo model's four files: {missing[0]} is missing.{hint}")
    model = load_model(files.dit, device)
    return Lab(model, load_demo_encoders(world, files, device), load_vae(files.vae, device), world, settings)


def load_model(path: Path, device: torch.device) -> GloriaDiT:
    """The diffusion model of a file.

    Raises:
        CheckpointError: It has not gone through the stages.
    """
    model = load_dit(path, device=str(device)).eval()
    if not model.config.gloria.has_audio:
        raise CheckpointError(f"{path} has no audio branch: the benchmark needs a model after all stages.")
    return model


def with_settings(model: GloriaDiT, changes: Mapping[str, Any]) -> GloriaDiT:
    """The same weights under other Gloria settings."""
    if not changes:
        return model
    config = replace(model.config, gloria=replace(model.config.gloria, **changes))
    changed = GloriaDiT(config, device="meta")
    changed.load_state_dict(model.state_dict(), assign=True)
    return changed.eval()


def shoot(lab: Lab, film: Film, arm: Arm, probe: ProbeSettings | None = None) -> Shot:
    """The film as the arm makes it."""
    model = with_settings(lab.model, arm.settings)
    conditions = list(chunk_conditions(lab, film, arm, plan := arm_plan(film, arm)))
    settings = replace(lab.settings, prefix_latents=arm.prefix_latents, chunk_latents=film.plan.chunk_latents)
    start = conditions[0].start_BCTHW
    size = LatentSize(start.shape[1], plan.total_latents, *start.shape[3:])
    sigmas = flow_sigmas(settings.steps, settings.shift)
    times: list[float] = []
    attention: list[AttentionShares] = []

    def denoise(chunk: Chunk, seed: int, prefix_BCTHW: Tensor | None) -> Tensor:
        started = time.perf_counter()
        looking = None if probe is None else AttentionProbe.from_settings(probe, len(model.blocks), sigmas)
        latents = denoise_chunk(model, conditions[chunk.index], size, settings, chunk, seed, prefix_BCTHW, looking)
        times.append(time.perf_counter() - started)
        attention.extend([] if looking is None else [looking.result()])
        return latents

    with (
        tempfile.TemporaryDirectory() as folder,
        Journal(Path(folder), "film", {}, plan, (size.channels, *size[2:]), {}) as journal,
    ):
        run_chunks(plan, film.seed, journal, denoise)
        film_BCTHW = journal.film(blend=arm.blend and model.config.takes_image_channels).clone()
    frames_THWC = decode(lab.vae, film_BCTHW.to(lab.device))
    return Shot(frames_THWC, seams_of(plan), sum(times) / len(times), tuple(attention))


def arm_plan(film: Film, arm: Arm) -> ChunkPlan:
    """The same film, cut as the arm cuts it."""
    return plan_chunks(film.plan.total_latents, film.plan.chunk_latents, arm.prefix_latents)


@torch.inference_mode()
def chunk_conditions(lab: Lab, film: Film, arm: Arm, plan: ChunkPlan) -> Iterator[Conditions]:
    """What the model is shown and told for each chunk."""
    anchors = [anchor for anchor in film.anchors if anchor.kind in arm.kinds]
    whole = Conditions(
        text_BLD=lab.encoders.text("")[None],
        negative_text_BLD=lab.encoders.text("")[None],
        anchors=[lab.encoders.pictures(anchor.image_HWC[None, None]).float() for anchor in anchors],
        anchor_slots=tuple(anchor.slot for anchor in anchors),
        audio_FLC=heard(lab.encoders.speech(film.source.sound(0, film.num_frames)), arm.audio_lag),
        start_BCTHW=lab.encoders.pictures(film.source.frames(0, 1)[None]).float(),
    )
    for chunk in plan.chunks:
        first, stop = frames_of(chunk)
        yield replace(whole, text_BLD=lab.encoders.text(film.source.prompt(first, stop - first))[None])


def heard(features_FLC: Tensor, lag: int | None) -> Tensor:
    """Speech features that come `lag` frames late; None: those of training's dropped speech."""
    if lag is None:
        return null_audio(features_FLC)
    frames = (torch.arange(len(features_FLC)) - lag).clamp_min(0)
    return features_FLC[frames]


@torch.inference_mode()
def decode(vae: WanVae, latents_BCTHW: Tensor) -> Tensor:
    """Frames [T, H, W, C], 0 to 1, piece by piece: the decoder looks back a limited number of latents."""
    frames, total = [], latents_BCTHW.shape[2]
    for first in range(0, total, _DECODED_LATENTS):
        begin, stop = max(0, first - WARM_UP_LATENTS), min(total, first + _DECODED_LATENTS)
        video_BCTHW = vae.decode(denormalized(latents_BCTHW[:, :, begin:stop].float())).float()
        num_new = (stop - first) * TEMPORAL_STRIDE if first else pixel_frames_for(stop)
        frames.append(video_BCTHW[0, :, -num_new:].movedim(0, -1).cpu())
    return ((torch.cat(frames) + 1) / 2).clamp(0, 1)


@torch.inference_mode()
def reference(lab: Lab, film: Film, name: str) -> Shot:
    """Films that no diffusion model made."""
    if name == "chance":
        return Shot(stranger_to_everything(film), seams_of(film.plan), None)
    frames_THWC = film.source.frames(0, film.num_frames)
    if name == "autoencoder":
        latents_BCTHW = lab.encoders.pictures(frames_THWC[None])
        frames_THWC = decode(lab.vae, latents_BCTHW.to(lab.device))
    return Shot(frames_THWC, seams_of(film.plan), None)


def stranger_to_everything(film: Film) -> Tensor:
    """A doll that looks like the character and was told nothing: chance for every metric that is read from frames."""
    rng = np.random.default_rng((_STREAM, film.seed))
    source, seconds = film.source, film.source.program.seconds
    character = replace(
        source.character,
        marks=tuple(Mark(int(rng.integers(len(MARK_SHAPES))), int(rng.integers(len(MARK_COLORS)))) for _ in VIEWPOINTS),
        quirks=tuple(int(quirk) for quirk in rng.integers(len(MARK_COLORS), size=len(EXPRESSIONS))),
    )
    seed = int(rng.integers(2**31))
    other = replace(
        source, character=character, program=make_program(seed, seconds), samples_N=make_speech(seed, seconds)
    )
    return other.frames(0, film.num_frames)
