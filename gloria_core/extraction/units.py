"""One source video enters, one part file leaves: its records, or the error that it ended in.

A part is named by the content of the video and by its path, written whole or not at all, and used again as long as it
was made by equal settings from equal files beside the video (poses, caption). A part with an error is made anew by the
next run, one whose judge did not answer from there on. Until a part is there, a partial one holds what the stages so
far found.
"""

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..data.scan_folder import VIDEO_SUFFIXES
from ..durable_files import commit_json, file_sha256, read_json
from ..errors import DatasetError, GloriaError
from .footage_stages import CAPTION_SUFFIX
from .pose_files import JOINTS_SUFFIX, SMPL_SUFFIX
from .records import Record, from_json, to_json
from .stage import Stage

logger = logging.getLogger(__name__)

PART_SCHEMA = 2
_ID_DIGITS = 16
# Less work than this is done again sooner than it is written.
_KEEP_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class UnitError:
    """What went wrong with a video."""

    stage: str
    kind: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One video on its way through the stages."""

    video: str
    """Path inside the folder."""
    content: str = ""
    beside: str = ""
    """Hash of the files beside it."""
    stages: tuple[str, ...] = ()
    """Names of those that it went through."""
    records: tuple[Record, ...] = ()
    error: UnitError | None = None
    is_done: bool = False
    """Its part is on disk already."""


@dataclass(frozen=True)
class PartStore:
    """The folder of parts and what they must have been made with."""

    folder: Path
    fingerprint: str

    def path(self, unit: Unit) -> Path:
        """Where a unit's part is."""
        place = hashlib.sha256(unit.video.encode()).hexdigest()[:8]
        return self.folder / f"{unit.content}-{place}.json"

    def has(self, unit: Unit) -> bool:
        """Whether nothing is left to do."""
        part = self._part(self.path(unit), unit)
        return part is not None and part["error"] is None and not _is_unanswered(part)

    def write(self, unit: Unit) -> None:
        """Write a unit's part, whole or not at all."""
        content = unit_content(replace(unit, is_done=True))
        self._commit(self.path(unit), content)
        if not _is_unanswered(content):
            self._partial(unit).unlink(missing_ok=True)

    def read(self, unit: Unit) -> Unit | None:
        """The finished unit of a video; None: not done yet, or by other settings."""
        part = self._part(self.path(unit), unit)
        return None if part is None else unit_from_content(part, str(self.path(unit)))

    def keep(self, unit: Unit) -> None:
        """Write what the stages so far found, as long as every question was answered."""
        content = unit_content(unit)
        if not _is_unanswered(content):
            self._commit(self._partial(unit), content)

    def kept(self, unit: Unit) -> Unit:
        """The unit as far as an earlier run came with it."""
        part = self._part(self._partial(unit), unit)
        return unit if part is None else unit_from_content(part, str(self._partial(unit)))

    def records(self) -> list[Record]:
        """The records of all finished parts, by the parts' names."""
        found: list[Record] = []
        for path in sorted(self.folder.glob("*.json")):
            part = read_json(path)
            if part is not None and self._is_ours(part):
                found += unit_from_content(part, str(path)).records
        return found

    def _partial(self, unit: Unit) -> Path:
        return self.path(unit).with_suffix(".partial")

    def _commit(self, path: Path, content: dict[str, Any]) -> None:
        commit_json(path, {"schema": PART_SCHEMA, "fingerprint": self.fingerprint, **content})

    def _part(self, path: Path, unit: Unit) -> dict[str, Any] | None:
        part = read_json(path)
        return part if part is not None and self._is_ours(part) and part["beside"] == unit.beside else None

    def _is_ours(self, part: dict[str, Any]) -> bool:
        return part.get("schema") == PART_SCHEMA and part.get("fingerprint") == self.fingerprint


def find_videos(folder: Path) -> list[str]:
    """Paths of all videos in a folder and below, sorted.

    Raises:
        DatasetError: There are none.
    """
    videos = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not videos:
        raise DatasetError(f"There are no videos in {folder} ({', '.join(sorted(VIDEO_SUFFIXES))}).")
    return videos


def open_unit(folder: Path, video: str, store: PartStore) -> Unit:
    """A video's unit as far as earlier runs came with it."""
    digest = file_sha256(folder / video)
    if digest is None:
        error = UnitError(stage="open", kind="DatasetError", message=f"'{video}' cannot be read.")
        return Unit(video=video, content="unreadable", error=error)
    content = digest[:_ID_DIGITS]
    beside = _beside(folder / video)
    unit = Unit(video=video, content=content, beside=beside, records=(Record(id=content, video=video),))
    return replace(unit, is_done=True) if store.has(unit) else store.kept(unit)


def _beside(video: Path) -> str:
    """A hash of everything else that the stages read of a video."""
    digests = [file_sha256(video.with_suffix(suffix)) for suffix in (CAPTION_SUFFIX, SMPL_SUFFIX, JOINTS_SUFFIX)]
    return hashlib.sha256(str(digests).encode()).hexdigest()[:_ID_DIGITS]


class StageRun:
    """Some stages one behind the other, set up when the first work arrives in this process.

    Args:
        stop_on: errors that end the run instead of becoming a row; what earlier stages found is kept.
    """

    def __init__(
        self, folder: Path, stages: Sequence[Stage], store: PartStore, stop_on: tuple[type[BaseException], ...] = ()
    ) -> None:
        self.folder, self.store, self.stop_on = folder, store, stop_on
        self.stages = list(stages)
        self.is_set_up = False
        self.seconds = {stage.name: 0.0 for stage in self.stages}

    def __call__(self, unit: Unit) -> Unit:
        """The unit after these stages; an error stops it, not the run."""
        if unit.is_done or unit.error is not None:
            return unit
        if not self.is_set_up:
            for stage in self.stages:
                stage.setup()
            self.is_set_up = True
        kept_at = time.monotonic()
        for stage in self.stages:
            if stage.name in unit.stages:
                continue
            if stage.asks_others:
                self.store.keep(unit)
            unit = self._after(stage, unit)
            if unit.error is not None:
                return unit
            if time.monotonic() - kept_at >= _KEEP_SECONDS:
                self.store.keep(unit)
                kept_at = time.monotonic()
        for record in unit.records:
            log_rejects(record)
        return unit

    def _after(self, stage: Stage, unit: Unit) -> Unit:
        started = time.perf_counter()
        try:
            records = [out for record in unit.records for out in _step(stage, record)]
        except self.stop_on:
            raise
        except Exception as error:
            logger.warning("%s: %s: %s", unit.video, stage.name, error)
            return replace(unit, error=_unit_error(stage, error, self.folder))
        finally:
            self.seconds[stage.name] += time.perf_counter() - started
        return replace(unit, records=tuple(records), stages=(*unit.stages, stage.name))


def log_rejects(record: Record) -> None:
    """One line for everything that was refused."""
    for each in record.rejects:
        logger.info("%s %.2f-%.2f s: %s: %s", record.video, each.start, each.end, each.stage, each.reason)
    for each in record.candidates:
        if each.rejected is not None:
            logger.info("%s %.2f s: %s %s: %s", record.video, each.time, each.kind, each.label, each.rejected)


def _step(stage: Stage, record: Record) -> list[Record]:
    """The first stage sees the bare file; what has no good stretch left passes by the others."""
    return stage.process(record) if record.spans or not record.seconds else [record]


def _unit_error(stage: Stage, error: Exception, folder: Path) -> UnitError:
    kind = type(error).__name__
    # A message of ours is written for people; others are named by their class too.
    message = str(error) if isinstance(error, GloriaError) else f"{kind}: {error}"
    # Where the folder lies on this machine is no property of the video.
    return UnitError(stage=stage.name, kind=kind, message=message.replace(f"{folder}{os.sep}", ""))


def unit_content(unit: Unit) -> dict[str, Any]:
    """A unit as plain values."""
    return {
        "video": unit.video,
        "content": unit.content,
        "beside": unit.beside,
        "stages": list(unit.stages),
        "error": None if unit.error is None else asdict(unit.error),
        "is_done": unit.is_done,
        "records": [] if unit.error is not None else to_json(unit.records),
    }


def unit_from_content(content: dict[str, Any], where: str) -> Unit:
    """The unit again."""
    error = content["error"]
    return Unit(
        video=content["video"],
        content=content["content"],
        beside=content["beside"],
        stages=tuple(content["stages"]),
        error=None if error is None else UnitError(**error),
        is_done=content["is_done"],
        records=from_json(content["records"], where),
    )


def _is_unanswered(part: dict[str, Any]) -> bool:
    return any(
        candidate["evidence"].get("verdict") == "no answer"
        for record in part["records"]
        for candidate in record["candidates"]
    )
