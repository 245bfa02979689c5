"""What the anchor board asks. Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_routes_anchors.py"""

import io

import numpy as np
import pytest
from PIL import Image

from gloria_pack.nodes.bridge.routes_anchors import ANCHOR_ROUTES


@pytest.fixture(scope="module")
def page_routes():
    return ANCHOR_ROUTES


@pytest.fixture
def folder(base_directory):
    path = base_directory / "input" / "board"
    path.mkdir(exist_ok=True)
    return path


def write(path, seed, width=512, height=512, **options):
    """A picture of sharp blocks, like no other seed's."""
    rng = np.random.default_rng(seed)
    blocks = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    blocks.resize((width, height), Image.Resampling.NEAREST).save(path, **options)
    return f"board/{path.name}"


def check(page_server, **anchors):
    return page_server.post("anchors/check", {"anchors": anchors})


def codes(answer):
    return {slot: [problem["code"] for problem in found["problems"]] for slot, found in answer.json.items()}


def test_good_pictures_have_a_size_and_no_problems(page_server, folder):
    answer = check(page_server, front=write(folder / "a.png", 1), happy=write(folder / "b.png", 2, 400, 300))
    assert answer.status == 200
    assert answer.json == {
        "front": {"width": 512, "height": 512, "problems": []},
        "happy": {"width": 400, "height": 300, "problems": []},
    }


def test_problems_name_code_values_and_text(page_server, folder):
    answer = check(page_server, front=write(folder / "c.png", 3, 100, 60))
    small, wide = answer.json["front"]["problems"]
    assert (small["code"], small["values"]["width"], wide["code"]) == ("small", 100, "wide")
    assert "100x60 pixels" in small["text"]


def test_the_kind_of_the_slot_decides(page_server, folder):
    name = write(folder / "wide.png", 4, 1024, 576)
    found = codes(check(page_server, **{"global": name}))
    assert found == {"global": []}
    assert codes(check(page_server, happy=name)) == {"happy": ["wide"]}


def test_a_picture_in_two_slots_is_told_in_both(page_server, folder):
    name, other = write(folder / "d.png", 5), write(folder / "e.jpg", 5, quality=60)
    answer = check(page_server, left=name, right=other, back=write(folder / "f.png", 6))
    assert codes(answer) == {"left": ["same"], "right": ["same"], "back": []}
    assert answer.json["left"]["problems"][0]["values"] == {"other": "right"}


def test_missing_outside_and_broken_files_do_not_hide_the_others(page_server, folder, base_directory):
    (base_directory / "hidden.png").write_bytes(b"x")
    (folder / "broken.png").write_bytes(b"x")
    (folder / "tiny.png").unlink(missing_ok=True)
    answer = check(
        page_server, front=write(folder / "g.png", 7), back="board/none.png", left="../hidden.png",
        right="board/broken.png", sad=write(folder / "tiny.png", 8, 20, 20),
    ).json  # fmt: skip
    assert answer["front"]["problems"] == []
    assert answer["back"] == answer["left"]
    assert answer["back"]["missing"]
    assert "not a picture" in answer["right"]["error"]
    assert "20x20 pixels, expected at least 32x32" in answer["sad"]["error"]


def test_a_file_written_anew_is_looked_at_anew(page_server, folder):
    name = write(folder / "h.png", 9)
    assert codes(check(page_server, front=name)) == {"front": []}
    write(folder / "h.png", 9, 64, 64)
    assert codes(check(page_server, front=name)) == {"front": ["small"]}


@pytest.mark.parametrize("anchors", [None, [], "front", {"nose": "a.png"}, {"front": 3}, {"front": ""}])
def test_what_is_no_board_is_refused(page_server, anchors):
    answer = page_server.post("anchors/check", {"anchors": anchors})
    assert answer.status == 400
    assert "anchor board" in answer.json["error"]


def test_thumbnails_are_small_keep_the_shape_and_come_from_all_three_folders(page_server, folder, base_directory):
    write(folder / "i.png", 10, 1600, 800)
    for place in ("output", "temp"):
        write(base_directory / place / "i.png", 10, 1600, 800)
    for name in ("board/i.png", "i.png%20[output]", "i.png%20[temp]"):
        answer = page_server.ask("GET", f"/gloria/anchors/thumbnail?name={name}")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/webp")
        assert Image.open(io.BytesIO(answer.body)).size == (384, 192)
        assert len(answer.body) < 100_000


def test_thumbnails_of_missing_outside_and_broken_files_are_one_answer(page_server, folder, base_directory):
    (folder / "broken.png").write_bytes(b"x")
    names = ("", "board/none.png", "../hidden.png", "board", "board/broken.png", "/etc/passwd")
    answers = [page_server.ask("GET", f"/gloria/anchors/thumbnail?name={name}") for name in names]
    answers.append(page_server.ask("GET", "/gloria/anchors/thumbnail"))
    assert {answer.status for answer in answers} == {404}
    assert len({answer.body for answer in answers}) == 1
