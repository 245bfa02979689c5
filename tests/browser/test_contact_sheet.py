"""The contact sheet of an extraction in a real browser: what is chosen there is what the manifest becomes.

Run: python -m pytest tests/browser/test_contact_sheet.py
The page is a file by itself; no ComfyUI is started. A screenshot goes to `.quickstart/screenshots/contact_sheet.png`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "core" / "extraction"))

from toy_scene import toy_source, write_joints_file, write_toy_video

from gloria_core.extraction.backends import Backends
from gloria_core.extraction.decisions import decisions_of_text, read_decisions, sheet_order
from gloria_core.extraction.extract import decide, extract
from gloria_core.extraction.pose_files import PoseFiles
from gloria_core.extraction.runners import LocalRunner
from gloria_core.extraction.settings import AnchorThresholds, ExtractionSettings, FootageThresholds

HERE = Path(__file__).resolve().parent
SCREENSHOTS = HERE.parents[1] / ".quickstart" / "screenshots"
SETTINGS = ExtractionSettings(
    clip_frames=41,
    footage=FootageThresholds(shots="none", min_side=64),
    anchors=AnchorThresholds(min_body_height=64, full_body_height=100, num_global=4),
)

pytestmark = pytest.mark.e2e


def worked(page, choices, node, chromium, tmp_path):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    saved = tmp_path / "saved.json"
    options = {"url": page.as_uri(), "chromium": chromium, "choices": choices, "download": str(saved),
               "screenshot": str(SCREENSHOTS / "contact_sheet.png")}  # fmt: skip
    command = [node, str(HERE / "contact_sheet.mjs")]
    done = subprocess.run(command, input=json.dumps(options), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), saved


def test_the_pages_lines_and_its_file_decide_the_same(tmp_path, node, chromium):
    facings = ((0.0, "front"), (1.5, "left"))
    source = toy_source(0, facings=facings, moods=((0.0, "sad"),), seconds=5.0, size=128)
    folder = tmp_path / "footage"
    write_toy_video(folder / "v.mp4", source)
    write_joints_file(folder / "v.joints.npz", source)
    poses = PoseFiles()
    extraction = extract(folder, SETTINGS, Backends(body=poses, people=poses, faces=poses), LocalRunner())
    labels = [anchor.label for anchor in sheet_order(extraction.found.sources[0])]
    front, left = labels.index("front") + 1, labels.index("left") + 1
    page = folder / "extraction" / "contact_sheet.html"

    seen, saved = worked(page, {front: "drop", left: "back"}, node, chromium, tmp_path)
    assert seen["errors"] == []
    assert seen["broken"] == 0
    assert seen["changed"] == [str(front), str(left)]
    assert seen["lines"] == f"{front} drop\n{left} back"
    assert seen["fewer"] == f"{left} back"
    assert seen["name"] == "decisions.json"
    by_file = decide(folder, read_decisions(saved)).decided
    assert by_file == decide(folder, decisions_of_text(seen["lines"], extraction.found)).decided
    assert len(by_file.sources[0].anchors) == len(labels) - 1

    # The page shows what was decided and takes it back.
    seen, saved = worked(page, {left: "left", front: "front"}, node, chromium, tmp_path)
    assert seen["errors"] == []
    assert decide(folder, read_decisions(saved)).decided == extraction.found
