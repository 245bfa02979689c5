"""Cues as they are typed enter, spans for the strip under them leave: the page neither reads nor plans by itself."""

from typing import Any

from ...gloria_core.conditioning.cues import cues_of_chunks, new_frames, parse_cues
from ...gloria_core.errors import GloriaError, PlanError
from ...gloria_core.media.encode_video import frame_rate
from ...gloria_core.sampling.plan import plan_chunks
from ...gloria_core.shapes import latent_frames_for
from .routes import post
from .sampling import chunk_latents_for

_MAX_FRAMES = 1_000_000
_LIMITS = {"frames": (1, _MAX_FRAMES), "chunk_frames": (5, 100_001), "prefix_latents": (0, 32), "fps": (1, 240)}


def _timeline(values: dict[str, Any]) -> dict[str, Any]:
    """The spans, or what is wrong: while somebody types, a line that is not finished is no failure of the request."""
    try:
        return _spans(values)
    except GloriaError as error:
        return {"error": str(error)}


def _spans(values: dict[str, Any]) -> dict[str, Any]:
    """Cues with their seconds; with the film's length also its chunks, each with its seconds and its cue."""
    cues = parse_cues(str(values.get("cues", "")))
    answer: dict[str, Any] = {
        "cues": [
            {"seconds": float(cue.seconds), "time": cue.time, "text": cue.text, "labels": cue.labels} for cue in cues
        ]
    }
    if values.get("frames"):
        frames, chunk_frames, prefix_latents, fps = (_number(values, name) for name in _LIMITS)
        rate = frame_rate(fps)
        plan = plan_chunks(latent_frames_for(int(frames)), chunk_latents_for(int(chunk_frames)), int(prefix_latents))
        cue_of_chunk = cues_of_chunks(cues, plan, int(frames), rate)
        answer["seconds"] = float(int(frames) / rate)
        answer["chunks"] = [
            {"start": float(first / rate), "stop": float(stop / rate), "cue": cue}
            for (first, stop), cue in zip(
                (new_frames(chunk, int(frames)) for chunk in plan.chunks), cue_of_chunk, strict=True
            )
        ]
    return answer


def _number(values: dict[str, Any], name: str) -> float:
    lowest, highest = _LIMITS[name]
    number = values.get(name)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not lowest <= number <= highest:
        raise PlanError(f"{name} is {str(number)[:40]}, expected a number from {lowest} to {highest}.")
    return number


TIMELINE_ROUTES = [post("timeline", _timeline)]
