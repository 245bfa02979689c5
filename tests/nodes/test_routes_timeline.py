"""What the strip under the cues asks.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_routes_timeline.py
"""

import json

import pytest

from gloria_pack.nodes.bridge.routes_timeline import TIMELINE_ROUTES

CUES = "0:00 she speaks\n0:00.9 [happy] she smiles\n0:01.25 [happy, front] she turns"
SIZES = {"frames": 41, "chunk_frames": 21, "prefix_latents": 4, "fps": 24}


@pytest.fixture(scope="module")
def page_routes():
    return TIMELINE_ROUTES


def test_cues_and_the_chunks_that_get_them(page_server):
    answer = page_server.post("timeline", {"cues": CUES, **SIZES})
    assert answer.status == 200
    shown = answer.json
    assert [(cue["seconds"], cue["time"], cue["text"], cue["labels"]) for cue in shown["cues"]] == [
        (0, "0:00", "she speaks", []), (0.9, "0:00.9", "she smiles", ["happy"]),
        (1.25, "0:01.25", "she turns", ["happy", "front"]),
    ]  # fmt: skip
    assert shown["seconds"] == 41 / 24
    assert [(chunk["start"], chunk["stop"], chunk["cue"]) for chunk in shown["chunks"]] == [
        (0, 21 / 24, 0), (21 / 24, 29 / 24, 1), (29 / 24, 37 / 24, 2), (37 / 24, 41 / 24, 2),
    ]  # fmt: skip


def test_without_a_length_only_the_cues_are_told(page_server):
    answer = page_server.post("timeline", {"cues": "0:03 waves"}).json
    assert "chunks" not in answer
    assert [cue["text"] for cue in answer["cues"]] == ["", "waves"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"cues": "0:00 a\nshe waves"}, "Line 2"),
        ({"frames": -1}, "frames is -1, expected"),
        ({"frames": 10**9}, "frames is 1000000000, expected"),
        ({"frames": "x" * 1000}, "expected a number"),
        ({"frames": True}, "expected a number"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": None}, "fps is None"),
        ({"chunk_frames": 22}, "4n"),
        ({"chunk_frames": 13, "prefix_latents": 4}, "no new frame"),
    ],
)
def test_mistakes_are_told_as_the_node_would_tell_them(page_server, changes, match):
    answer = page_server.post("timeline", {"cues": CUES, **SIZES, **changes})
    assert answer.status == 200
    assert answer.json.keys() == {"error"}
    assert match in answer.json["error"]
    assert len(answer.json["error"]) < 400


def test_only_our_page_may_ask_and_not_too_much(page_server):
    body = json.dumps({"cues": CUES}).encode()
    right = {"Content-Type": "application/json", "X-Gloria-Request": "1", "Origin": page_server.origin}
    assert page_server.ask("POST", "/gloria/timeline", body, **right).status == 200
    for name, value, status in [
        ("Origin", "https://foreign.example", 403), ("X-Gloria-Request", "0", 403), ("Content-Type", "text/plain", 415),
    ]:  # fmt: skip
        assert page_server.ask("POST", "/gloria/timeline", body, **{**right, name: value}).status == status
    assert page_server.ask("POST", "/gloria/timeline", b'{"cues": "' + b"x" * 70_000 + b'"}', **right).status == 413
    assert page_server.ask("GET", "/gloria/timeline").status in (404, 405)
