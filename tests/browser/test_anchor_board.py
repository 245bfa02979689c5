"""The anchor board in ComfyUI's real page, worked as an artist does, in both node renderers.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/browser/test_anchor_board.py
Screenshots go to `.quickstart/screenshots/board_*.png`, to be looked at.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageFilter

REPO = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SCREENSHOTS = REPO / ".quickstart" / "screenshots"

pytestmark = pytest.mark.e2e


def blocks(seed: int, width: int, height: int) -> Image.Image:
    """A picture of sharp blocks, like no other seed's."""
    rng = np.random.default_rng(seed)
    colors = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize((width, height), Image.Resampling.NEAREST)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, quickstart: ModuleType) -> Path:
    """A base directory without models: the board needs none."""
    base = tmp_path_factory.mktemp("board")
    for name in ("custom_nodes", "input/shelf", "output", "temp", "models", "user/default"):
        (base / name).mkdir(parents=True)
    quickstart.link_folder(base / "custom_nodes" / quickstart.PACK_NAME, REPO)
    blocks(5, 512, 512).save(base / "output" / "made.png")
    blocks(6, 300, 300).save(base / "input" / "shelf" / "known.png")
    blocks(7, 500, 500).save(base / "input" / "known_front.png")
    return base


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pictures on the artist's disk."""
    folder = tmp_path_factory.mktemp("pictures")
    assets = REPO / "assets"
    happy = Image.open(assets / "astronaut_happy.jpg")
    made = {
        "front.png": Image.open(assets / "astronaut_front.jpg"),
        "her_happy.png": happy,
        "her_global.png": Image.open(assets / "astronaut_global.jpg"),
        "her_left.png": blocks(2, 400, 600),
        "plain.png": blocks(1, 512, 600),
        "small.png": blocks(3, 60, 60),
        "blurred.png": happy.filter(ImageFilter.GaussianBlur(5)),
    }
    for name, picture in made.items():
        picture.save(folder / name)
    return {name: str(folder / name) for name in made}


@pytest.fixture(scope="module")
def server(base: Path, comfyui_server: Callable) -> Iterator[object]:
    with comfyui_server(base) as server:
        yield server


@pytest.fixture(scope="module", params=["canvas", "vue"])
def report(request: pytest.FixtureRequest, server: object, pictures: dict, chromium: str, node: str) -> dict:
    """What one browser saw while the board was worked, in one renderer."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    options = {"url": server.url, "chromium": chromium, "vue": request.param == "vue", "pictures": pictures}
    command = [node, str(HERE / "board.mjs"), json.dumps({**options, "screenshots": str(SCREENSHOTS)})]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def names(files: dict[str, str]) -> dict[str, str]:
    """The files of a board without folder and without the number that ComfyUI adds to a name that is taken."""
    return {slot: Path(name).name.split(" (")[0].removesuffix(".png") for slot, name in files.items()}


def test_the_page_reports_no_errors(report: dict):
    assert report["errors"] == []


def test_an_empty_board_shows_all_slots_and_says_what_to_do(report: dict):
    assert len(report["empty"]["slots"]) == 13
    assert not any(slot["classes"] for slot in report["empty"]["slots"].values())
    assert "One is enough" in report["empty"]["status"]


def test_a_dropped_file_lands_in_its_slot_and_in_the_input_folder(report: dict, base: Path, pictures: dict):
    assert names(report["dropped"]) == {"front": "front"}
    uploaded = base / "input" / report["dropped"]["front"]
    assert uploaded.read_bytes() == Path(pictures["front.png"]).read_bytes()


def test_of_several_dropped_files_those_with_a_slot_in_their_name_go_there(report: dict):
    assert names(report["several"]) == {
        "global": "her_global", "front": "front", "back": "plain", "left": "her_left", "happy": "her_happy",
    }  # fmt: skip


def test_slots_show_size_and_what_is_unsuitable(report: dict):
    slots = report["checked"]["slots"]
    assert slots["global"]["size"] == "512\u00d7512"
    assert {slot for slot, seen in slots.items() if "warned" in seen["classes"]} == {"front", "angry", "sad", "fear"}
    assert "same picture as angry" in slots["front"]["line"]
    assert "Small: 60x60" in slots["sad"]["line"]
    assert "Blurred" in slots["fear"]["line"]
    assert report["checked"]["status"] == "8 of 13 slots \u00b7 4 with warnings"


def test_dragging_a_slot_onto_another_swaps_them_and_onto_an_empty_one_moves_it(report: dict):
    before, after = report["swapped"]["before"], report["swapped"]["after"]
    assert after == {**before, "front": before["happy"], "happy": before["front"]}
    assert report["moved"].keys() == after.keys() - {"fear"} | {"surprise"}
    assert report["moved"]["surprise"] == after["fear"]


def test_pictures_of_the_page_are_copied_unless_they_are_input_already(report: dict, base: Path):
    assert report["fromPage"]["neutral"] == "shelf/known.png"
    copied = base / "input" / report["fromPage"]["right"]
    assert copied.read_bytes() == (base / "output" / "made.png").read_bytes()


def test_a_picture_from_the_clipboard_lands_in_the_focused_slot(report: dict, base: Path):
    with Image.open(base / "input" / report["pasted"]["contempt"]) as picture:
        assert picture.size == (300, 300)


def test_arrows_and_tab_move_between_slots(report: dict):
    assert report["keys"] == {"up": "back", "left": "left", "tab": "right"}


def test_delete_clears_the_slot_and_not_the_node_and_undo_brings_it_back(report: dict):
    assert report["deleted"].keys() == report["pasted"].keys() - {"sad"}
    assert report["nodesAfterDelete"] == 2
    assert report["undone"] == report["pasted"]


def test_enter_opens_a_file_chooser_and_the_cross_clears(report: dict):
    assert names(report["chosen"])["disgust"] == "her_left"
    assert report["cleared"] == report["undone"]


def test_the_text_is_kept_by_copy_save_and_load_and_exported_to_the_api(report: dict):
    assert json.loads(report["text"]) == report["cleared"]
    assert report["copied"] == report["text"]
    assert report["savedWidgets"] == [report["text"]]
    assert report["loaded"] == report["text"]
    (board,) = [node for node in report["prompt"].values() if node["class_type"] == "GloriaLoadAnchors"]
    assert board["inputs"] == {"board": report["text"]}


def test_a_link_covers_its_slot_visibly_and_protects_the_file_below(report: dict):
    slot = report["linked"]["slots"]["front"]
    assert (slot["source"], slot["size"]) == ("\u21e0 My photo", "")
    assert report["linkedText"] == report["text"]
    assert "linked" not in report["unlinked"]["slots"]["front"]["classes"]


def test_the_queue_runs_and_the_board_marks_what_was_used(report: dict, server: object):
    assert report["run"]["end"] == "execution_success", json.dumps(report["run"])[:2000]
    files = json.loads(report["text"])
    marked = {slot for slot, seen in report["used"]["slots"].items() if seen["used"]}
    assert marked == files.keys()
    outputs = server.request(f"/history/{report['run']['detail']['prompt_id']}").popitem()[1]["outputs"]
    (used,) = [group["gloria_anchors"][0] for group in outputs.values() if "gloria_anchors" in group]
    assert json.loads(used) == {**files, "front": "link"}


def test_a_result_from_the_cache_marks_the_same_pictures(report: dict):
    assert report["rerun"]["end"] == "execution_success"
    assert not any(slot["used"] for slot in report["unmarked"]["slots"].values())
    assert report["usedFromCache"]["slots"] == report["used"]["slots"]


def test_a_reloaded_page_has_the_board_back(report: dict):
    assert report["reloaded"]["after"] == report["reloaded"]["before"] == report["text"]
    filled = {slot for slot, seen in report["afterReload"]["slots"].items() if "pictured" in seen["classes"]}
    assert {"happy", "global"} <= filled
