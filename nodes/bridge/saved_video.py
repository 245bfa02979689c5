"""What ComfyUI wants to know about a file in its output folder: metadata to embed, and where the preview finds it."""

from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io, ui


def workflow_metadata(prompt: Any, extra_pnginfo: dict[str, Any] | None) -> dict[str, Any]:
    """The keys Save Video embeds, so that dropping the file on the canvas restores the graph."""
    if args.disable_metadata:
        return {}
    metadata = dict(extra_pnginfo or {})
    if prompt is not None:
        metadata["prompt"] = prompt
    return metadata


def preview(path: Path) -> ui.PreviewVideo:
    """The video player under the node, for a file in the output folder."""
    return ui.PreviewVideo([saved_result(path)])


def saved_result(path: Path) -> ui.SavedResult:
    """A file in the output folder as the page asks for it."""
    relative = path.resolve().relative_to(Path(folder_paths.get_output_directory()).resolve())
    subfolder = "" if relative.parent == Path() else relative.parent.as_posix()
    return ui.SavedResult(relative.name, subfolder, io.FolderType.output)
