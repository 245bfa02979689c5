"""What the pipeline asks of models, as protocols: who is there, how they stand, what their face says, what is heard.

A backend has a `name`, which is part of a part's fingerprint, and `setup()`, which loads weights once in the process
that uses them; one that runs on a GPU says by `gpus` which share of it a copy takes. Pictures are uint8 [H, W, 3].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from .pose_files import BodyTrack


class Moment(NamedTuple):
    """A picture and where it is from."""

    video: Path
    time: float
    picture_HWC: Tensor


class Box(NamedTuple):
    """Edges in pixels, any fraction."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def height(self) -> float:
        """From top to bottom."""
        return self.bottom - self.top


class Face(NamedTuple):
    """A face: its box from brows to chin, how far it is turned (as psi), how sure the detector is."""

    box: Box
    psi: float
    score: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a judge says about one picture; also the record of how it was asked."""

    outcome: Literal["keep", "relabel", "drop", "no answer"]
    label: str | None
    reason: str
    attempts: int
    judge: str
    """Model and hash of the questions."""


class SyncScore(NamedTuple):
    """How well lips and sound agree."""

    offset: int
    """Frames by which the sound is late (negative: early)."""
    confidence: float
    distance: float


class Backend(Protocol):
    """Common to all."""

    name: str

    def setup(self) -> None:
        """Load what is heavy."""


class PersonDetector(Backend, Protocol):
    """Finds people."""

    def people(self, moment: Moment) -> list[Box]:
        """A box around everybody, sure ones only."""


class BodyPose(Backend, Protocol):
    """Knows how the body is turned."""

    def track(self, video: Path) -> "BodyTrack":
        """The person of a video over time."""


class FacePose(Backend, Protocol):
    """Finds faces and how they are turned."""

    def find(self, moment: Moment) -> list[Face]:
        """All faces of a picture."""


class ExpressionClassifier(Backend, Protocol):
    """Reads faces."""

    def classify(self, crops: Sequence[Tensor]) -> list[Mapping[str, float]]:
        """For each head crop [H, W, 3] the probability of every expression by its name."""


class Judge(Backend, Protocol):
    """Looks at an expression again."""

    def judge(self, crop_HWC: Tensor, label: str) -> Verdict:
        """Keep, relabel or drop."""


class LookEncoder(Backend, Protocol):
    """Tells crops of one label apart."""

    def embed(self, crop_HWC: Tensor) -> Tensor:
        """What a crop looks like [D]; crops that look alike are near to each other."""


class Captioner(Backend, Protocol):
    """Writes prompts."""

    def caption(self, pictures: Sequence[Tensor]) -> str:
        """One sentence about pictures of one clip in their order."""


class SyncScorer(Backend, Protocol):
    """SyncNet or the like."""

    def score(self, video: Path, start: float, end: float) -> SyncScore | None:
        """Agreement over a stretch; None where nobody speaks."""


@dataclass(frozen=True, kw_only=True)
class Backends:
    """The models of one pipeline; what is None is not done, and the report says so."""

    body: BodyPose | None = None
    people: PersonDetector | None = None
    faces: FacePose | None = None
    expressions: ExpressionClassifier | None = None
    judge: Judge | None = None
    looks: LookEncoder | None = None
    sync: SyncScorer | None = None
    captions: Captioner | None = None

    @property
    def names(self) -> dict[str, str | None]:
        """Each part's backend."""
        return {field.name: getattr(getattr(self, field.name), "name", None) for field in fields(self)}
