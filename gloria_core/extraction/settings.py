"""All numbers of the pipeline in one place; the paper names none of the thresholds, so each is a setting."""

from dataclasses import dataclass, field
from typing import Literal

from ..data.scan_folder import DEFAULT_CLIP_FRAMES
from .view_bands import ViewThresholds


@dataclass(frozen=True, kw_only=True)
class FootageThresholds:
    """Which footage is good enough."""

    min_side: int = 256
    """Pixels of the shorter side."""
    min_seconds: float = 1.0
    """Shorter stretches are left out."""
    rate: float = 2.0
    """Pictures a second that are looked at."""
    min_sharpness: float = 8.0
    """Variance of the Laplacian at 256 pixels height."""
    min_exposure: float = 0.2
    max_still_seconds: float = 4.0
    """A picture that does not change at all for so long is no video."""
    shots: Literal["detect", "none"] = "detect"
    """none: every video is one shot."""
    one_person: bool = False
    """All shots of a video show the same person, so their anchors belong together."""
    min_person_share: float = 0.1
    """People lower than this part of the picture are not counted."""
    max_sync_offset: int = 3
    min_sync_confidence: float = 3.0


@dataclass(frozen=True, kw_only=True)
class ExpressionThresholds:
    """Which faces count."""

    rate: float = 4.0
    """Faces a second that are looked at."""
    min_probability: float = 0.6
    min_samples: int = 2
    """Neighbouring samples that must agree."""
    max_psi: float = 50.0
    """Faces turned further away show no expression."""
    min_score: float = 0.5
    """Of the face detector."""
    min_distinct: int = 2
    """Expressions that one person must show for any of them to count (paper section 3)."""


@dataclass(frozen=True, kw_only=True)
class AnchorThresholds:
    """Which crops become anchors."""

    min_body_height: int = 256
    min_head_height: int = 128
    full_body_height: int = 512
    """From here on more pixels are no better."""
    full_head_height: int = 256
    body_margin: float = 0.06
    head_margin: float = 0.25
    """What is added around a face on every side, in parts of its box, to show the whole head."""
    border: float = 0.02
    """A body nearer to the picture's side than this is cut off."""
    min_quality: float = 0.3
    shortlist: int = 6
    """Best candidates of each label that are judged."""
    per_label: int = 3
    apart_seconds: float = 1.0
    num_global: int = 10
    """Half of them inside the clips, half outside where there is an outside (supplement 1.1)."""


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """Everything that decides what is found."""

    fps: float = 24.0
    clip_frames: int = DEFAULT_CLIP_FRAMES
    """4n + 1."""
    hold_out_every: int = 10
    """Every so many clips one is kept for validation; 0: none."""
    footage: FootageThresholds = field(default_factory=FootageThresholds)
    views: ViewThresholds = field(default_factory=ViewThresholds)
    expressions: ExpressionThresholds = field(default_factory=ExpressionThresholds)
    anchors: AnchorThresholds = field(default_factory=AnchorThresholds)
