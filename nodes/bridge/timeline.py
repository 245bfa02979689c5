"""Cues and their encoded prompts ride on a conditioning; the conditioning of one cue leaves.

A timeline is one option of a conditioning entry, so it passes through stock nodes. The entry itself always shows one
of its cues: a sampler that knows nothing of timelines works with that one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import Tensor

from ...gloria_core.conditioning.cues import Cue, check_labels, cue_of_span, cues_of_chunks
from ...gloria_core.errors import CueError
from ...gloria_core.media.encode_video import frame_rate
from ...gloria_core.sampling.plan import ChunkPlan
from ...gloria_core.shapes import pixel_frames_for
from .conditioning import Conditioning, set_values

TIMELINE = "gloria_timeline"
ACTIVE_ANCHORS = "gloria_active_anchors"
DEFAULT_FPS = 24.0


@dataclass(frozen=True, eq=False)
class Timeline:
    """What happens when.

    Args:
        prompts: the whole text of each cue, base prompt included.
        encoded: the conditioning of each cue.
    """

    cues: tuple[Cue, ...]
    prompts: tuple[str, ...]
    encoded: tuple[Conditioning, ...]

    @property
    def conditioning(self) -> Conditioning:
        """The conditioning that carries this timeline and shows its first cue."""
        return set_values(self.encoded[0], {TIMELINE: self, ACTIVE_ANCHORS: self.cues[0].labels})


def timeline_of(conditioning: Conditioning) -> Timeline | None:
    """The timeline that a conditioning carries."""
    found = {id(options[TIMELINE]): options[TIMELINE] for _, options in conditioning if TIMELINE in options}
    if len(found) > 1:
        raise CueError(
            f"The conditioning was combined from {len(found)} timelines, expected one. Write all cues into one Gloria "
            "Timeline."
        )
    return next(iter(found.values()), None)


def with_cue(positive: Conditioning, negative: Conditioning, index: int) -> tuple[Conditioning, Conditioning]:
    """Both conditionings as they are while one cue lasts: its prompt in the positive one, its anchors in both."""
    timeline = timeline_of(positive)
    if timeline is None:
        return positive, negative
    values = {ACTIVE_ANCHORS: timeline.cues[index].labels}
    carriers = [options for _, options in positive if options.get(TIMELINE) is timeline]
    others = [entry for entry in positive if entry[1].get(TIMELINE) is not timeline]
    # What was attached to the prompt on its way goes with every cue; what its encoder attached goes with its own.
    encoder_keys = {key for encoded in timeline.encoded for _, options in encoded for key in options}
    attached = {key: value for key, value in carriers[0].items() if key not in encoder_keys}
    shown = set_values([[text, {**options, **attached}] for text, options in timeline.encoded[index]], values)
    return [*shown, *set_values(others, values)], set_values(negative, values)


def with_cue_of_whole(
    positive: Conditioning, negative: Conditioning, pixel_frames: int, fps: float
) -> tuple[Conditioning, Conditioning]:
    """Both conditionings as a film that is one single chunk gets them."""
    timeline = timeline_of(positive)
    if timeline is None:
        return positive, negative
    return with_cue(positive, negative, cue_of_span(timeline.cues, 0, pixel_frames, frame_rate(fps)))


def check_timeline(
    positive: Conditioning, negative: Conditioning, anchor_slots: Sequence[tuple[str, str]]
) -> None:
    """Refuse cues that name an anchor there is no image of, and a timeline of what must not be seen."""
    if timeline_of(negative) is not None:
        raise CueError(
            "The negative prompt comes from a Gloria Timeline, expected one text for the whole film. "
            "Connect CLIP Text Encode to 'negative', and the timeline to 'positive'."
        )
    timeline = timeline_of(positive)
    if timeline is not None:
        check_labels(timeline.cues, tuple(dict.fromkeys(label for _, label in anchor_slots)))


def film_timing(latent: dict[str, Any]) -> tuple[int, Fraction]:
    """Video frames of a film and how many are shown per second, as Gloria Conditioning wrote them into its LATENT."""
    pixel_frames = latent.get("gloria_pixel_frames", pixel_frames_for(latent["samples"].shape[2]))
    return pixel_frames, frame_rate(latent.get("gloria_fps", DEFAULT_FPS))


def cue_indices(positive: Conditioning, plan: ChunkPlan, latent: dict[str, Any]) -> tuple[int, ...]:
    """Index of the cue of every chunk; 0 throughout when there is no timeline."""
    timeline = timeline_of(positive)
    return cues_of_chunks(timeline.cues, plan, *film_timing(latent)) if timeline else (0,) * len(plan.chunks)


def unused_cues(positive: Conditioning, indices: Sequence[int]) -> list[Cue]:
    """Cues with a text or anchors of their own that no chunk gets."""
    timeline = timeline_of(positive)
    if timeline is None:
        return []
    return [cue for i, cue in enumerate(timeline.cues) if i not in indices and (cue.text or cue.labels)]


def active_anchors(options: dict[str, Any]) -> tuple[list[Tensor], list[tuple[str, str]]]:
    """Latents and slots of the anchors that an entry's cue looks at: all of them without a timeline."""
    anchors, slots = options.get("gloria_anchors") or [], options.get("gloria_anchor_slots") or ()
    cue = Cue(Fraction(0), "", tuple(options.get(ACTIVE_ANCHORS) or ()))
    kept = [(anchor, slot) for anchor, slot in zip(anchors, slots, strict=True) if cue.is_active(slot[1])]
    return [anchor for anchor, _ in kept], [slot for _, slot in kept]
