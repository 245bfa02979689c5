"""Every shipped workflow in ComfyUI's real page: both node renderers, the CPU one run to the end.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/browser
Needs Chromium (Debian: `apt-get install chromium`) and npm, which fetches the pinned playwright-core once.
Screenshots go to `.quickstart/screenshots/`, to be looked at.
"""

import itertools
import json
import math
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SCREENSHOTS = REPO / ".quickstart" / "screenshots"
WORKFLOWS = {path.stem: path for path in sorted((REPO / "workflows").glob("*.json"))}
CPU_WORKFLOW = "cpu_talking_video"
# Still two chunks of the CPU workflow, with every node at work, but short enough for two cores.
SPEECH, SPEECH_SECONDS = "speech_60s.ogg", 5.5
SMALLER = {"15": {"steps": 4}}
FPS, FOOTAGE_FPS = 8, 24

pytestmark = pytest.mark.e2e


def _film(path: Path) -> None:
    """A second of gray, as footage that workflows name."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FOOTAGE_FPS)
        stream.width, stream.height, stream.pix_fmt = 256, 144, "yuv420p"
        gray = np.full((144, 256, 3), 128, dtype=np.uint8)
        for _ in range(FOOTAGE_FPS):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        container.mux(stream.encode())


def _speech_frames(speech: Path) -> int:
    with av.open(str(speech)) as file:
        samples = sum(frame.samples for frame in file.decode(audio=0))
        return math.ceil(samples / file.streams.audio[0].rate * FPS)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, make_base: Callable) -> Path:
    base = make_base(tmp_path_factory.mktemp("browser"), {SPEECH: SPEECH_SECONDS})
    _film(base / "input" / "my_character" / "talk.mp4")
    return base


@pytest.fixture(scope="module")
def server(base: Path, comfyui_server: Callable) -> Iterator[object]:
    with comfyui_server(base) as server:
        yield server


@pytest.fixture(scope="module", params=["canvas", "vue"])
def report(request: pytest.FixtureRequest, server: object, chromium: str, node: str) -> dict:
    """What one browser saw of all workflows in one renderer."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    options = {
        "url": server.url,
        "chromium": chromium,
        "vue": request.param == "vue",
        "screenshots": str(SCREENSHOTS),
        "workflows": {name: json.loads(path.read_text()) for name, path in WORKFLOWS.items()},
        "run": CPU_WORKFLOW,
        "change": SMALLER,
    }
    command = [node, str(HERE / "drive.mjs")]
    text = json.dumps(options)
    result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def _overlap(a: list[float], b: list[float]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _contains(outer: list[float], inner: list[float]) -> bool:
    return (
        outer[0] <= inner[0]
        and outer[1] <= inner[1]
        and inner[0] + inner[2] <= outer[0] + outer[2]
        and inner[1] + inner[3] <= outer[1] + outer[3]
    )


def test_all_workflows_are_offered_as_templates_with_a_picture(server: object):
    offered = server.request("/api/workflow_templates")["gloria-character-video"]
    assert sorted(offered) == sorted(WORKFLOWS)
    for name in offered:
        url = f"{server.url}/api/workflow_templates/gloria-character-video/{name}.jpg"
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.headers.get_content_type() == "image/jpeg"


def test_page_opens_without_errors(report: dict):
    assert report["startErrors"] == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_opens_without_missing_nodes_or_errors(report: dict, name: str):
    assert report["workflows"][name]["missing"] == []
    assert report["workflows"][name]["errors"] == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_queues_what_its_api_twin_says(report: dict, name: str):
    twin = json.loads((REPO / "tests" / "workflows" / "api" / f"{name}.json").read_text())
    queued = report["workflows"][name]["prompt"]
    assert queued.keys() == twin.keys()
    for node_id, node in twin.items():
        assert queued[node_id]["class_type"] == node["class_type"], node_id
        assert queued[node_id]["inputs"] == node["inputs"], node_id


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nodes_do_not_overlap_and_lie_in_their_groups(report: dict, name: str):
    seen = report["workflows"][name]
    not_drawn = [title for title, rectangle in seen["rectangles"] if not rectangle or rectangle[2] < 50]
    assert not not_drawn
    pairs = itertools.combinations(seen["rectangles"], 2)
    assert [(a, b) for (a, ra), (b, rb) in pairs if _overlap(ra, rb)] == []
    homes = {title: [group for group, box in seen["groups"] if _contains(box, box_of_node)]
             for title, box_of_node in seen["rectangles"]}  # fmt: skip
    assert {title: groups for title, groups in homes.items() if len(groups) != 1} == {}


def test_cpu_workflow_runs_to_the_end_in_the_page(report: dict, base: Path):
    run = report["workflows"][CPU_WORKFLOW]["run"]
    assert run["end"] == "execution_success", json.dumps(run)[:4000]
    saved = run["outputs"]["16"]["images"][0]
    with av.open(str(base / "output" / saved["subfolder"] / saved["filename"])) as film:
        assert sum(1 for _ in film.decode(video=0)) == _speech_frames(base / "input" / SPEECH)
        assert film.streams.audio
    job = next((base / "output" / "gloria").glob(f"{CPU_WORKFLOW}-*"))
    assert len(list(job.glob("chunk_*.safetensors"))) == 2


def test_the_server_logs_no_deprecation(report: dict, server: object):
    """ComfyUI's server names every script that imports a module of the old front end."""
    assert [line for line in server.log_lines() if "DEPRECATION" in line and "gloria" in line.lower()] == []
