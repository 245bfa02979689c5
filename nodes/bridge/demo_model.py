"""The demo model in the pack's own folder: ComfyUI's loaders list its four files behind the user's own."""

from pathlib import Path

import folder_paths

DEMO_MODEL = Path(__file__).resolve().parents[2] / "assets" / "demo_model"


def register_demo_model() -> None:
    """Each folder of the demo model becomes one more place of that kind of model; where there is none, nothing."""
    for folder in sorted(path for path in DEMO_MODEL.glob("*") if path.is_dir()):
        folder_paths.add_model_folder_path(folder.name, str(folder))
