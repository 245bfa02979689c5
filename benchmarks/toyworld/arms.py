"""The arms of the benchmark: what is taken away or changed, and which numbers must move for it.

References need no model: `truth` is the rendered film (the readings' own error), `autoencoder` the same through the
VAE, `chance` another doll in the same clothes that knows neither program, marks, quirks nor speech.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gloria_core.conditioning.anchors import KINDS
from gloria_core.demo.train_arm import ONE_POSITION
from gloria_core.sampling.plan import PREFIX_LATENTS

from .films import PROGRAMS

# A lag that is no multiple of a latent's frames cannot come from the model's own grid.
AUDIO_LAG = 3
FULL = "full"
REFERENCES = ("truth", "autoencoder", "chance")
SWAPPED_VIEWS = {"viewpoints": ("back", "front", "left", "right")}
DRIFT = {"room_drift": 1, "palette_drift": 1, "identity_drift": 1}
_SPEECH = ("talking", "feeling", "random")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of making the same films.

    Args:
        moves: by metric the direction in which the arm must differ from the full model; 0: either.
        settings: changed `GloriaSettings`; the weights stay.
        audio_lag: frames by which the model hears the speech too late; None: it hears the silence that guidance uses.
        trained: the arm has weights of its own, from `python -m gloria_core.demo.train --arm`.
    """

    name: str
    says: str
    moves: Mapping[str, int] = field(default_factory=dict)
    programs: tuple[str, ...] = PROGRAMS
    kinds: tuple[str, ...] = KINDS
    settings: Mapping[str, Any] = field(default_factory=dict)
    prefix_latents: int = PREFIX_LATENTS
    blend: bool = True
    audio_lag: int | None = 0
    trained: bool = False


ARMS = {
    arm.name: arm
    for arm in (
        Arm(name=FULL, says="global anchor, 4 views, 4 expressions, prefix, speech"),
        Arm(name="no_global", says="no global anchor", moves=DRIFT, kinds=("viewpoint", "expression")),
        Arm(
            name="no_views", says="no viewpoint anchors", moves={"mark_unseen": -1, "mark_color_unseen": -1},
            programs=("turning", "random"), kinds=("global", "expression"),
        ),
        Arm(
            name="no_expressions", says="no expression anchors", moves={"quirk": -1},
            programs=("turning", "feeling", "random"), kinds=("global", "viewpoint"),
        ),
        Arm(
            name="one_position", says="all anchors at one RoPE position", moves={"leak": 1, "mark_unseen": -1},
            programs=("turning", "feeling", "random"), settings=ONE_POSITION,
        ),
        Arm(
            name="swapped", says="offsets of front and back swapped", moves={"back_shows_front": 1},
            programs=("turning", "random"), settings=SWAPPED_VIEWS,
        ),
        Arm(name="no_prefix", says="chunks do not continue each other", moves={"seam_jump": 1}, prefix_latents=0),
        Arm(name="no_blend", says="no cross-fade of the overlap", moves={"seam_jump": 1}, blend=False),
        Arm(
            name="no_audio", says="no speech heard", moves={"sync": -1, "sync_contrast": -1}, programs=_SPEECH,
            audio_lag=None,
        ),
        Arm(
            name="late_audio", says=f"speech heard {AUDIO_LAG} frames late", moves={"sync": -1, "sync_lag": 1},
            programs=_SPEECH, audio_lag=AUDIO_LAG,
        ),
        Arm(
            name="one_way", says="anchors do not see the video", moves={"mark_unseen": 0, "chunk_seconds": -1},
            programs=("turning", "random"), settings={"anchor_attention": "one_way"},
        ),
        Arm(
            name="no_superset", says="trained with anchors from inside the clip", moves={"copy": 1}, trained=True,
            programs=("turning", "feeling", "random"),
        ),
        Arm(
            name="no_offsets", says="trained with all anchors at one position", moves={"leak": 1, "mark_unseen": -1},
            programs=("turning", "feeling", "random"), trained=True,
        ),
        Arm(
            name="one_way_trained", says="trained without anchors seeing the video", trained=True,
            moves={"mark_unseen": 0, "quirk": 0, "chunk_seconds": -1}, programs=("turning", "feeling", "random"),
        ),
    )
}  # fmt: skip
