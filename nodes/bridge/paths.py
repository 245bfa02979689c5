"""Names that a workflow or the page carries enter, paths inside ComfyUI's own folders leave.

A workflow file comes from strangers, so its strings never become a path outside those folders, links included.
"""

import os
import re
from pathlib import Path

import folder_paths

from ...gloria_core.errors import GloriaError
from ...gloria_core.sampling.job_folder import check_job_name

JOBS_FOLDER = "gloria"
_MAX_PREFIX_CHARS = 200
_MAX_NAME_CHARS = 1000
_FOLDER_MARK = re.compile(r" ?\[(input|output|temp)\]$")
# Separators and streams of Windows, control characters: on another system they would mean something else.
_FORBIDDEN = re.compile(r'[\x00-\x1f\\:*?"<>|]')


class MissingFileError(GloriaError):
    """A file that is not there or must not be read; which of the two is not told."""

    def __init__(self, text: str = "There is no such file in ComfyUI's input, output or temp folder.") -> None:
        super().__init__(text)


def jobs_root(job_name: str) -> Path:
    """The folder that holds the jobs of long films, checked to be inside the output folder.

    Args:
        job_name: refused here already when it is not a plain name, before anything is loaded or computed.
    """
    check_job_name(job_name)
    return contained(Path(folder_paths.get_output_directory()) / JOBS_FOLDER, JOBS_FOLDER)


def output_path(filename_prefix: str, extension: str) -> Path:
    """A new file `<prefix>_00001_.<extension>` inside the output folder, numbered like ComfyUI's own.

    Args:
        filename_prefix: may hold folders and ComfyUI's %date% patterns.
    """
    parts = filename_prefix.split("/")
    is_plain = filename_prefix and not _FORBIDDEN.search(filename_prefix) and len(filename_prefix) <= _MAX_PREFIX_CHARS
    if not is_plain or any(part in ("", ".", "..") for part in parts):
        raise GloriaError(
            f"The filename prefix {filename_prefix[:80]!r} cannot be used. Expected a name, or folders and a name with "
            "'/' between them, inside ComfyUI's output folder, for example 'gloria/film'."
        )
    output = folder_paths.get_output_directory()
    contained(Path(output, *parts).parent, filename_prefix)
    folder, name, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, output)
    return contained(Path(folder) / f"{name}_{counter:05}_.{extension}", filename_prefix)


def contained(path: Path, shown: str) -> Path:
    """The path itself if it is inside the output folder after following links."""
    output = os.path.realpath(folder_paths.get_output_directory())
    real = os.path.realpath(path)
    if real != output and not real.startswith(output.rstrip(os.sep) + os.sep):
        raise GloriaError(
            f"'{shown[:80]}' leads outside ComfyUI's output folder {output} (through a link to {real}). "
            "Remove the link or choose another name."
        )
    return path


def existing_file(root: str | Path, name: str) -> Path:
    """A file below `root`, given its relative path with '/' between folders.

    Raises:
        MissingFileError: it is absent, is no plain file, or the name or a link leads out of `root`.
    """
    parts = name.split("/")
    if len(name) > _MAX_NAME_CHARS or _FORBIDDEN.search(name) or any(part in ("", ".", "..") for part in parts):
        raise MissingFileError
    real_root = os.path.realpath(root)
    path = os.path.realpath(os.path.join(real_root, *parts))  # noqa: PTH118 - pathlib would drop what is checked here
    if not path.startswith(real_root.rstrip(os.sep) + os.sep) or not os.path.isfile(path):  # noqa: PTH113
        raise MissingFileError
    return Path(path)


def annotated_file(name: str) -> Path:
    """A file by ComfyUI's own notation: `folder/picture.png [output]`; without a mark it is in the input folder."""
    mark = _FOLDER_MARK.search(name)
    root = folder_paths.get_directory_by_type(mark.group(1) if mark else "input")
    return existing_file(root, name[: mark.start()] if mark else name)
