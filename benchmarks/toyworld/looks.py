"""A demo model and a film of the benchmark enter, what its latents looked at leaves, beside how far it was turned.

Legend: B films (1), C channels, T latent frames of a film, F those of a chunk, G groups (F frames, then anchors), H W
latent height and width.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gloria_core.analysis.attention_curves import attention_map
from gloria_core.analysis.attention_probe import AttentionProbe, AttentionShares, ProbeSettings, spread
from gloria_core.conditioning.audio import frame_windows
from gloria_core.model.anchor_tokens import Slot
from gloria_core.model.attention import PROBE_OPTION
from gloria_core.model.dit import GloriaDiT
from gloria_core.sampling.denoise import Conditions
from gloria_core.sampling.plan import Chunk, ChunkPlan, chunk_seed
from gloria_core.sampling.schedule import flow_sigmas, timestep_of
from gloria_core.shapes import pixel_span_of_latent
from gloria_core.toyworld.readout import Reading

from .arms import ARMS, FULL
from .films import Film
from .sample import Lab, chunk_conditions, shoot


@dataclass(frozen=True, eq=False)
class Looks:
    """Where each chunk of a film looked.

    Args:
        maps: [F, G] of every chunk; each row sums to one.
        slots: of the columns behind a chunk's latent frames.
        even: share of each slot, had every token of a chunk got the same attention.
    """

    plan: ChunkPlan
    maps: tuple[Tensor, ...]
    slots: tuple[Slot, ...]
    even: dict[Slot, float]

    def at(self, slot: Slot) -> Tensor:
        """What every latent frame of the film gave to one anchor, in the chunk that added it [T]."""
        return torch.cat([column_F[chunk.prefix :] for chunk, column_F in self._columns(slot)])

    def by_chunk(self, slot: Slot | None) -> list[float]:
        """Means over the latents that each chunk adds; None: what they gave to the first latent of their chunk."""
        return [float(column_F[chunk.prefix :].mean()) for chunk, column_F in self._columns(slot)]

    def _columns(self, slot: Slot | None) -> Iterator[tuple[Chunk, Tensor]]:
        for chunk, map_FG in zip(self.plan.chunks, self.maps, strict=True):
            yield chunk, map_FG[:, 0 if slot is None else chunk.length + self.slots.index(slot)]


def looks_of(plan: ChunkPlan, shares: Sequence[AttentionShares]) -> Looks:
    """The looks of a whole film."""
    first = shares[0]
    even = [tokens / sum(first.tokens) for tokens in first.tokens[plan.chunks[0].length :]]
    maps = tuple(attention_map(each) for each in shares)
    return Looks(plan, maps, first.slots, dict(zip(first.slots, even, strict=True)))


def sampled(lab: Lab, film: Film, probe: ProbeSettings) -> tuple[Looks, Tensor]:
    """The film as the full model samples it: its looks, and its frames as a `Shot` has them."""
    shot = shoot(lab, film, ARMS[FULL], probe)
    return looks_of(film.plan, shot.attention), shot.frames_THWC


@torch.inference_mode()
def shown(lab: Lab, film: Film, settings: ProbeSettings) -> Looks:
    """The looks at the true film under noise, as in training: what the angle is does not depend on the model."""
    frames_THWC = film.source.frames(0, film.num_frames)
    true_BCTHW = lab.encoders.pictures(frames_THWC[None]).float()
    sigmas = flow_sigmas(lab.settings.steps, lab.settings.shift)
    shares = []
    for chunk, conditions in zip(
        film.plan.chunks, chunk_conditions(lab, film, ARMS[FULL], film.plan), strict=True
    ):
        clean = true_BCTHW[:, :, chunk.start : chunk.stop]
        generator = torch.Generator().manual_seed(chunk_seed(film.seed, chunk.index))
        noise = torch.randn(clean.shape, generator=generator)
        probe = AttentionProbe.from_settings(settings, len(lab.model.blocks), sigmas)
        for step in spread(settings.num_steps, lab.settings.steps):
            look_once(lab.model, conditions, chunk, clean, noise, float(sigmas[step]), probe)
        shares.append(probe.result())
    return looks_of(film.plan, shares)


def look_once(
    model: GloriaDiT,
    conditions: Conditions,
    chunk: Chunk,
    clean_BCFHW: Tensor,
    noise_BCFHW: Tensor,
    sigma: float,
    probe: AttentionProbe,
) -> None:
    """One pass at one noise level, start image or prefix given clean as in sampling, which a probe looks at."""
    device, dtype = model.patch_embedding.weight.device, model.head.head.weight.dtype
    num_known = max(chunk.prefix, 1)
    noisy = sigma * noise_BCFHW + (1 - sigma) * clean_BCFHW
    noisy[:, :, :num_known] = clean_BCFHW[:, :, :num_known]
    timestep = torch.full((1, chunk.length), timestep_of(sigma), device=device)
    timestep[:, :num_known] = 0
    assert conditions.audio_FLC is not None, "the benchmark's models hear"
    model(
        noisy.to(device, dtype),
        timestep,
        conditions.text_BLD.to(device, dtype),
        anchors=[anchor.to(device, dtype) for anchor in conditions.anchors],
        anchor_slots=conditions.anchor_slots,
        audio_windows=frame_windows(conditions.audio_FLC, chunk.start, chunk.length)[None].to(device, dtype),
        transformer_options={PROBE_OPTION: probe, "sigmas": torch.tensor([sigma])},
    )


def asked_yaw(film: Film) -> Tensor:
    """Where the program has the character face in each latent frame [T], radians."""
    return _by_latent(film, film.truth().yaw_T, torch.ones(film.num_frames, dtype=torch.bool))


def seen_yaw(film: Film, frames_THWC: Tensor, read: Callable[[Tensor], Reading]) -> Tensor:
    """Where it does face in each latent frame [T]; NaN where no frame of it is readable."""
    reading = read(frames_THWC)
    return _by_latent(film, reading.poses.yaw_T, reading.is_readable_T)


def _by_latent(film: Film, yaw_F: Tensor, counts_F: Tensor) -> Tensor:
    """Mean directions over the video frames of each latent."""
    means = []
    for idx in range(film.plan.total_latents):
        span = slice(*pixel_span_of_latent(idx))
        own = yaw_F[span][counts_F[span]].double()
        means.append(math.atan2(float(own.sin().mean()), float(own.cos().mean())) if len(own) else math.nan)
    return torch.tensor(means)
