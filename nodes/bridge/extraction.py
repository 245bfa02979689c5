"""A video and models from a graph enter; an extraction in the output folder, its sheet and its report leave.

    output/gloria/extraction/<name>/          footage.mp4, a pose file, dataset.json: what Gloria Dataset reads
    output/gloria/extraction/<name>/extraction/  contact sheet, report, parts
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy import model_management
from comfy_api.latest import InputImpl
from PIL import Image
from torch import Tensor

from ...gloria_core.data.scan_folder import VIDEO_SUFFIXES
from ...gloria_core.durable_files import file_sha256, publish_file
from ...gloria_core.errors import DatasetError
from ...gloria_core.extraction.backends import Backends
from ...gloria_core.extraction.collect import REPORT_NAME, report_of
from ...gloria_core.extraction.extract import WORK_FOLDER, Extraction, run_stages
from ...gloria_core.extraction.pipeline import make_stages
from ...gloria_core.extraction.pose_files import JOINTS_SUFFIX, SMPL_SUFFIX
from ...gloria_core.extraction.runners import LocalRunner
from ...gloria_core.extraction.settings import ExtractionSettings
from ...gloria_core.media.encode_video import VideoEncoder, VideoFormat, disk_errors, frame_rate
from ...gloria_core.sampling.job_folder import JOB_NAME
from .paths import contained, existing_file
from .progress import show_text

EXTRACTIONS_FOLDER = "gloria/extraction"
NO_FILE = "none"
_STEM = "footage"
_INCOMING = ".incoming"  # a name that no search for videos finds
# As good as pictures that are trained on should be.
_IMAGES_CRF = 8
_REPORT_LINES = 60
_TEXT_SECONDS = 1.0


def extraction_path(name: str) -> Path:
    """The folder of an extraction.

    Raises:
        DatasetError: Not a plain name.
    """
    if not JOB_NAME.fullmatch(name):
        raise DatasetError(
            f"The name {name[:80]!r} cannot be used as a folder name. Use 1 to 64 letters, digits, '-' and '_', for "
            "example 'my_character'."
        )
    return contained(Path(folder_paths.get_output_directory()) / EXTRACTIONS_FOLDER / name, name)


def work_path(name: str) -> Path:
    """The folder in it of what the pipeline writes."""
    return extraction_path(name) / WORK_FOLDER


def linked_footage(footage: Any) -> Path:
    """The folder that a link brings.

    Raises:
        DatasetError: Not one that Gloria Extract Anchors made; a workflow file cannot name a folder here.
    """
    root = Path(folder_paths.get_output_directory()) / EXTRACTIONS_FOLDER
    if not isinstance(footage, Path) or footage.parent != root:
        raise DatasetError("The footage input takes the footage output of Gloria Extract Anchors or Relabel Anchors.")
    return contained(footage, footage.name)


def place_footage(name: str, video: Any | None, images_BHWC: Tensor | None, fps: float) -> Path:
    """The extraction's folder with the footage in it.

    Raises:
        DatasetError: No footage, two of them, or the folder holds another.
    """
    folder = extraction_path(name)
    if (video is None) == (images_BHWC is None):
        raise DatasetError("Connect either a video or images (with their frames per second), one of them.")
    folder.mkdir(parents=True, exist_ok=True)
    incoming = _encode_images(folder, images_BHWC, fps) if video is None else _place_video(folder, video)
    target = folder / f"{_STEM}{incoming.suffix}"
    names = [path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES]
    others = [path for path in names if not path.name.startswith(_INCOMING)]
    if others and (others != [target] or file_sha256(target) != file_sha256(incoming)):
        incoming.unlink()
        raise DatasetError(
            f"{folder} holds the extraction of other footage. Choose another name, or delete that folder. (For several "
            "videos of one character put them into a folder and use the command line, as docs/extraction.md says.)"
        )
    publish_file(incoming, target)
    return folder


def _place_video(folder: Path, video: Any) -> Path:
    """The video's own file under a second name, or what ComfyUI writes of one that is cut or has no file."""
    source = video.get_stream_source() if isinstance(video, InputImpl.VideoFromFile) else None
    window = getattr(video, "get_active_trim_window", None)  # ComfyUI before 0.30 does not tell
    if isinstance(source, str) and window is not None and window() == (0.0, 0.0):
        suffix = Path(source).suffix.lower()
        incoming = folder / f"{_INCOMING}{suffix if suffix in VIDEO_SUFFIXES else '.mp4'}"
        incoming.unlink(missing_ok=True)
        try:
            os.link(source, incoming)
        except OSError:
            with disk_errors(incoming, Path(source).stat().st_size):
                shutil.copyfile(source, incoming)
        return incoming
    incoming = folder / f"{_INCOMING}.mp4"
    video.save_to(str(incoming))
    return incoming


def _encode_images(folder: Path, images_BHWC: Tensor, fps: float) -> Path:
    incoming = folder / f"{_INCOMING}.mp4"
    height, width = (side // 2 * 2 for side in images_BHWC.shape[1:3])
    video_format = VideoFormat(width, height, frame_rate(fps), _IMAGES_CRF)
    needed = video_format.estimated_bytes(len(images_BHWC))
    with disk_errors(incoming, needed), VideoEncoder(incoming, video_format) as encoder:
        for image_HWC in images_BHWC:
            model_management.throw_exception_if_processing_interrupted()
            encoder.write(image_HWC[None, :height, :width])
    return incoming


def pose_file_names() -> list[str]:
    """Pose files in the input folder, for a combo."""
    root = Path(folder_paths.get_input_directory())
    found = (path.relative_to(root).as_posix() for path in root.rglob("*.npz")) if root.is_dir() else ()
    return [NO_FILE, *sorted(found)]


def pose_file_path(name: str) -> Path | None:
    """The pose file of a name in the input folder.

    Raises:
        MissingFileError: There is none.
    """
    return None if name == NO_FILE else existing_file(folder_paths.get_input_directory(), name)


def place_pose_file(folder: Path, pose_file: Path) -> None:
    """Put a pose file beside the footage, named by what it holds.

    Raises:
        DatasetError: Not an .npz of plain numbers.
    """
    try:
        with np.load(pose_file, allow_pickle=False) as arrays:
            suffix = JOINTS_SUFFIX if "joints" in arrays.files else SMPL_SUFFIX
    except Exception as error:  # zipfile and zlib have error classes of their own
        raise DatasetError(f"'{pose_file.name}' is not a readable .npz file of plain numbers ({error}).") from error
    for old in (SMPL_SUFFIX, JOINTS_SUFFIX):
        (folder / f"{_STEM}{old}").unlink(missing_ok=True)
    shutil.copyfile(pose_file, folder / f"{_STEM}{suffix}")


class Watch:
    """Says under the node what is looked at, and stops when the user pressed Cancel."""

    def __init__(self, node_id: str | None) -> None:
        self._node_id = node_id
        self._counts: dict[str, int] = {}
        self._last_text = 0.0

    def on_picture(self, work: str) -> None:
        """One more picture for this work."""
        model_management.throw_exception_if_processing_interrupted()
        self._counts[work] = self._counts.get(work, 0) + 1
        now = time.monotonic()
        if now - self._last_text >= _TEXT_SECONDS:
            self._last_text = now
            show_text(f"{work}: {self._counts[work]} pictures", self._node_id)


def run_extraction(folder: Path, settings: ExtractionSettings, backends: Backends, watch: Watch) -> Extraction:
    """All stages, in this process."""
    stages = make_stages(folder, settings, backends)
    for stage in stages:
        stage.on_picture = _named(watch, stage.name)
    # Before ComfyUI 0.24 a Cancel is an error like any other.
    runner = LocalRunner(stop_on=(model_management.InterruptProcessingException,))
    return run_stages(folder, settings, backends, stages, runner)


def _named(watch: Watch, work: str) -> Callable[[], None]:
    return lambda: watch.on_picture(work)


def sheet_image(extraction: Extraction) -> Tensor:
    """The contact sheet as an IMAGE."""
    with Image.open(extraction.folder / WORK_FOLDER / "contact_sheet.png") as sheet:
        return torch.from_numpy(np.array(sheet.convert("RGB"))).float()[None] / 255


def report_text(extraction: Extraction) -> str:
    """What was found, what was not done, and what was refused and why."""
    report = report_of(extraction.collection, "", ())
    lines = [*extraction.lines, ""]
    refused = [
        f"{row['start']:.2f}-{row['end']:.2f} s, {row['stage']}: {row['reason']}" for row in report["rejected_footage"]
    ]
    refused += [f"{row['time']:.2f} s, {row['label']}: {row['reason']}" for row in report["rejected_anchors"]]
    lines += [f"refused ({len(refused)}):", *refused[:_REPORT_LINES]]
    work = extraction.folder / WORK_FOLDER
    if len(refused) > _REPORT_LINES:
        lines.append(f"and {len(refused) - _REPORT_LINES} more in {work / REPORT_NAME}")
    return "\n".join([*lines, "", f"contact sheet to look at and to mend: {work / 'contact_sheet.html'}"])
