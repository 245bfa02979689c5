"""A video enters, its good stretches of one person and the clips in them leave."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from ..data.manifest import ManifestClip
from ..data.read_clip import probe_video
from ..errors import DatasetError
from .backends import Captioner, Moment, PersonDetector, SyncScorer
from .frames import exposure, luma, sample_times, sharpness
from .records import Record, Reject, Span, cut
from .settings import FootageThresholds
from .shots import find_cuts, times_for_cuts
from .stage import FolderStage, resources_of

CAPTION_SUFFIX = ".txt"
# What an encoder changes on a picture that it repeats stays below this.
_STILL = 2 / 255
_STILL_HEIGHT = 64
_CLOCK_DIGITS = 4


class Probe(FolderStage):
    """Length, size and sound of a file."""

    name = "probe"

    def __init__(self, folder: Path, thresholds: FootageThresholds) -> None:
        super().__init__(folder)
        self.thresholds = thresholds

    def process(self, record: Record) -> list[Record]:
        """One span that is the whole video.

        Raises:
            DatasetError: Not a readable video.
        """
        info = probe_video(self.video(record))
        record = replace(
            record,
            seconds=info.seconds,
            height=info.height,
            width=info.width,
            has_audio=info.has_audio,
            spans=(Span(start=0.0, end=info.seconds),),
            caption=_caption(self.video(record).with_suffix(CAPTION_SUFFIX)),
        )
        reason = None
        if min(info.height, info.width) < self.thresholds.min_side:
            reason = f"{info.width}x{info.height} pixels, the shorter side needs {self.thresholds.min_side}"
        return [cut(record, self.name, [0.0], [reason], self.thresholds.min_seconds)]


class Shots(FolderStage):
    """Cuts a video at its cuts; each shot becomes a record, unless all show one person."""

    name = "shots"

    def __init__(self, folder: Path, thresholds: FootageThresholds) -> None:
        super().__init__(folder)
        self.thresholds = thresholds

    def process(self, record: Record) -> list[Record]:
        """One record for each shot."""
        cuts = []
        if self.thresholds.shots == "detect":
            cuts = find_cuts(self.pictures(record, times_for_cuts(record.seconds)))
        edges = [0.0, *(round(time, _CLOCK_DIGITS) for time in cuts), record.seconds]
        spans = [Span(start=start, end=end) for start, end in pairwise(edges)]
        if self.thresholds.one_person or len(spans) == 1:
            return [self._long_enough(replace(record, spans=tuple(spans)))]
        return [
            self._long_enough(replace(record, id=f"{record.id}-{idx:03d}", spans=(span,)))
            for idx, span in enumerate(spans)
        ]

    def _long_enough(self, record: Record) -> Record:
        times = [span.start for span in record.spans]
        return cut(record, self.name, times, [None] * len(times), self.thresholds.min_seconds)


class Quality(FolderStage):
    """Takes away what is blurred, black, white or not moving at all."""

    name = "quality"

    def __init__(self, folder: Path, thresholds: FootageThresholds) -> None:
        super().__init__(folder)
        self.thresholds = thresholds

    def process(self, record: Record) -> list[Record]:
        """The record without bad stretches."""
        limits = self.thresholds
        times = [time for span in record.spans for time in sample_times(span, limits.rate)]
        verdicts: list[str | None] = []
        before, still_samples = None, 0
        for _, picture_HWC in self.pictures(record, times):
            small_hw = luma(picture_HWC, _STILL_HEIGHT)
            is_still = before is not None and float((small_hw - before).abs().max()) < _STILL
            still_samples = still_samples + 1 if is_still else 0
            before = small_hw
            verdict = None
            if exposure(picture_HWC) < limits.min_exposure:
                verdict = "too dark or too bright"
            elif sharpness(picture_HWC) < limits.min_sharpness:
                verdict = "blurred"
            elif still_samples >= limits.max_still_seconds * limits.rate:
                verdict = "a still picture"
                verdicts[-still_samples:] = [verdict] * still_samples
            verdicts.append(verdict)
        return [cut(record, self.name, times, verdicts, limits.min_seconds)]


class SinglePerson(FolderStage):
    """Keeps the stretches with exactly one person."""

    name = "people"

    def __init__(self, folder: Path, thresholds: FootageThresholds, detector: PersonDetector) -> None:
        super().__init__(folder)
        self.thresholds, self.detector = thresholds, detector
        self.resources = resources_of(detector)

    def setup(self) -> None:
        """Load the detector."""
        self.detector.setup()

    def process(self, record: Record) -> list[Record]:
        """The record without stretches of nobody or of many."""
        limits, video = self.thresholds, self.video(record)
        times = [time for span in record.spans for time in sample_times(span, limits.rate)]
        counts = []
        for time, picture_HWC in self.pictures(record, times):
            boxes = self.detector.people(Moment(video, time, picture_HWC))
            counts.append(sum(box.height >= limits.min_person_share * picture_HWC.shape[0] for box in boxes))
        # Detectors blink: nobody for one sample between two of one person is that person.
        bridged = [
            1 if count == 0 and 0 < idx < len(counts) - 1 and counts[idx - 1] == counts[idx + 1] == 1 else count
            for idx, count in enumerate(counts)
        ]
        names = {0: "nobody is there", 1: None}
        verdicts = [names.get(count, "more than one person") for count in bridged]
        return [cut(record, self.name, times, verdicts, limits.min_seconds)]


class SyncFilter(FolderStage):
    """Takes away stretches whose lips and sound disagree."""

    name = "sync"

    def __init__(self, folder: Path, thresholds: FootageThresholds, scorer: SyncScorer) -> None:
        super().__init__(folder)
        self.thresholds, self.scorer = thresholds, scorer
        self.resources = resources_of(scorer)

    def setup(self) -> None:
        """Load the scorer."""
        self.scorer.setup()

    def process(self, record: Record) -> list[Record]:
        """The record without stretches out of sync; silent ones stay."""
        if not record.has_audio:
            return [record]
        verdicts = [self._verdict(record, span) for span in record.spans]
        times = [span.start for span in record.spans]
        return [cut(record, self.name, times, verdicts, self.thresholds.min_seconds)]

    def _verdict(self, record: Record, span: Span) -> str | None:
        score = self.scorer.score(self.video(record), span.start, span.end)
        if score is None:
            return None
        if score.confidence < self.thresholds.min_sync_confidence:
            return f"lips and sound agree only to {score.confidence:.1f}"
        if abs(score.offset) > self.thresholds.max_sync_offset:
            return f"the sound is {score.offset:+d} frames late"
        return None


class Clips(FolderStage):
    """Cuts the good stretches into clips of one length, one behind the other."""

    name = "clips"

    def __init__(self, folder: Path, fps: float, clip_frames: int) -> None:
        super().__init__(folder)
        self.fps, self.clip_frames = fps, clip_frames

    def process(self, record: Record) -> list[Record]:
        """The record with its clips; what is too short for one still serves for anchors."""
        length = self.clip_frames / self.fps
        clips, rejects = [], list(record.rejects)
        for span in record.spans:
            # A container's clock may round the end of a stretch down by less than a frame.
            count = int((span.seconds + 0.05 / self.fps) / length)
            starts = [round(span.start + idx * length, _CLOCK_DIGITS) for idx in range(count)]
            clips += [ManifestClip(start=start, frames=self.clip_frames) for start in starts]
            if not count:
                reason = f"shorter than a clip of {length:.2f} s; anchors only"
                rejects.append(Reject(stage=self.name, start=span.start, end=span.end, reason=reason))
        return [replace(record, clips=tuple(clips), rejects=tuple(rejects))]


class Captions(FolderStage):
    """Describes every clip from four of its pictures."""

    name = "captions"

    def __init__(self, folder: Path, fps: float, captioner: Captioner) -> None:
        super().__init__(folder)
        self.fps, self.captioner = fps, captioner
        self.resources = resources_of(captioner)

    def setup(self) -> None:
        """Load the captioner."""
        self.captioner.setup()

    def process(self, record: Record) -> list[Record]:
        """The record with a caption for every clip."""
        clips = []
        for clip in record.clips:
            times = [clip.start + share * clip.frames / self.fps for share in (0.125, 0.375, 0.625, 0.875)]
            stills = [picture_HWC for _, picture_HWC in self.pictures(record, times)]
            clips.append(replace(clip, caption=self.captioner.caption(stills)))
        return [replace(record, clips=tuple(clips))]


def _caption(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"The caption '{path.name}' cannot be read ({error}). Save it as UTF-8 text.") from error
