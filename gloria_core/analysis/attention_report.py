"""Curves of a film's attention enter, lines of text leave: how much each anchor is looked at, and when most."""

import math

import torch
from torch import Tensor

from ..sampling.plan import ChunkPlan
from .attention_chart import name_of, seconds_of_latents
from .attention_curves import FilmAttention, means_by_chunk

_MAX_CHUNKS = 16


def describe_film_attention(attention: FilmAttention, plan: ChunkPlan, fps: float) -> str:
    """Lines for a node's report."""
    if not attention.looks:
        return "Nothing was looked at: no chunk of this film was sampled with a Gloria Attention Probe connected."
    num_seen = len(plan.chunks) - len(attention.missing)
    steps, blocks = (sorted(set(numbers)) for numbers in zip(*attention.looks, strict=True))
    seconds = seconds_of_latents(plan.total_latents, fps)
    means = means_by_chunk(attention, plan)
    lines = [
        f"{num_seen} of {len(plan.chunks)} chunks looked at, in steps {_listed(steps)} and blocks {_listed(blocks)}",
        "share of the video's attention (times what it would be if all tokens got the same), most at:",
    ]
    for slot, curve_T in attention.curves_T.items():
        lines.append(f"  {name_of(slot)}: {_describe(curve_T, attention.even_T[slot], seconds)}")
        lines.append(f"    by chunk: {_by_chunk(means[slot])}")
    if attention.missing:
        lines.append(
            f"chunks {_listed(attention.missing)} were sampled without a probe, or not yet; what is on disk is not "
            "sampled again. Give another job name to look at all of it."
        )
    return "\n".join(lines)


def _describe(curve_T: Tensor, even_T: Tensor, seconds: list[float]) -> str:
    mean, even = float(curve_T.nanmean()), float(even_T.nanmean())
    most = int(torch.where(curve_T.isfinite(), curve_T, -math.inf).argmax())
    return f"{mean:.3f} ({mean / even:.2f} x), {float(curve_T[most]):.3f} at {seconds[most]:.1f} s"


def _by_chunk(means: list[float]) -> str:
    shown = [f"{mean:.3f}" if math.isfinite(mean) else "-" for mean in means]
    return " ".join(shown if len(shown) <= _MAX_CHUNKS else [*shown[: _MAX_CHUNKS - 1], "...", shown[-1]])


def _listed(numbers: list[int] | tuple[int, ...]) -> str:
    shown = [str(number) for number in numbers]
    return ", ".join(shown if len(shown) <= _MAX_CHUNKS else [*shown[: _MAX_CHUNKS - 1], "...", shown[-1]])
