"""Timeline and player in ComfyUI's real page, worked as an artist does, in both node renderers and over a restart.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/browser/test_player.py
Screenshots go to `.quickstart/screenshots/player_*.png`, to be looked at.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gloria_core.analysis.attention_file import attention_path, write_shares
from gloria_core.analysis.attention_probe import AttentionShares
from gloria_core.sampling.journal import Journal
from gloria_core.sampling.plan import plan_chunks

REPO = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SCREENSHOTS = REPO / ".quickstart" / "screenshots"
SPEECH_SECONDS = {"speech.ogg": 5.5, "speech_60s.ogg": 16.0}
WATCHED_JOB, WATCHED_LATENTS = "timeline", 34
# 33 frames, then 20 new ones per chunk: the speech is 6 chunks long.
CHANGE = {"15": {"steps": 14}}

pytestmark = pytest.mark.e2e


def graph(name: str) -> dict:
    return json.loads((REPO / "workflows" / f"{name}.json").read_text())


@pytest.fixture(scope="module", params=["canvas", "vue"])
def is_vue(request: pytest.FixtureRequest) -> bool:
    return request.param == "vue"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, make_base: Callable, is_vue: bool) -> Path:
    return make_base(tmp_path_factory.mktemp("player"), SPEECH_SECONDS)


def write_watched_film(base: Path) -> None:
    """A finished film of the timeline's job with known attention: `happy` is looked at in the middle, global always."""
    slots = (("global", "global"), ("viewpoint", "front"), ("expression", "happy"))
    plan = plan_chunks(WATCHED_LATENTS, 31, 4)
    with Journal(base / "output" / "gloria", WATCHED_JOB, {}, plan, (1, 2, 2), {}) as journal:
        for chunk in plan.chunks:
            journal.commit(chunk, 0, journal.prefix_for(chunk), torch.zeros(1, 1, chunk.length, 2, 2))
            place = (torch.arange(chunk.start, chunk.stop) / (WATCHED_LATENTS - 1) - 0.5) * 2
            anchors = torch.stack([torch.full_like(place, 0.2), 0.05 + 0.1 * place.abs(), 0.4 * (1 - place.abs())], 1)
            video = (1 - anchors.sum(1, keepdim=True)).expand(-1, chunk.length) / chunk.length
            tokens = (9,) * chunk.length + (9, 6, 4)
            shares = AttentionShares(slots, ((0, 0),), torch.cat([video, anchors], 1)[None], tokens)
            write_shares(attention_path(journal.folder, chunk.index), shares, journal.record(chunk).sha256)


def drive(server: object, chromium: str, node: str, is_vue: bool, **options: object) -> dict:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    shared = {"url": server.url, "chromium": chromium, "vue": is_vue, "screenshots": str(SCREENSHOTS)}
    command = [node, str(HERE / "player.mjs")]
    text = json.dumps({**shared, **options})
    result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def jobs(base: Path) -> list[Path]:
    return sorted((base / "output" / "gloria").glob("cpu_talking_video-*/"), key=lambda path: path.stat().st_ctime)


@pytest.fixture(scope="module")
def started(comfyui_server: Callable, base: Path, is_vue: bool, chromium: str, node: str) -> dict:
    """Cues typed, a film begun, watched, cancelled and found again after a reload."""
    write_watched_film(base)
    with comfyui_server(base) as server:
        films = {"timeline": graph("long_video_timeline"), "film": graph("cpu_talking_video")}
        return drive(server, chromium, node, is_vue, phase="start", change=CHANGE, **films)


@pytest.fixture(scope="module")
def resumed(comfyui_server: Callable, base: Path, is_vue: bool, chromium: str, node: str, started: dict) -> dict:
    """The same film on a server started anew: resumed, finished, and another take of it made."""
    (job,) = jobs(base)
    before = {path.name: path.read_bytes() for path in job.glob("chunk_*.safetensors")}
    with comfyui_server(base) as server:
        report = drive(server, chromium, node, is_vue, phase="resume", film=started["graph"])
    assert {name: (job / name).read_bytes() for name in before} == before
    return report


def test_the_strip_shows_cues_speech_and_chunks(started: dict):
    seen = started["timeline"]
    assert seen["cues"][0].startswith("he talks to the camera")
    assert len(seen["cues"]) == 4
    assert seen["labels"] == ["front", "happy"]
    assert seen["chunks"] == ["0", "1"]  # 121 frames, then the rest of the 5.5 seconds
    assert "0:11, 0:17" in seen["status"]  # cues behind the end of the short recording
    assert 0.02 < seen["drawn"] < 0.9


def test_the_eye_on_the_strip_shows_which_anchor_was_looked_at_when(started: dict):
    seen = started["timeline"]["attention"]
    assert seen["before"] == seen["after"] == [False, False]
    assert seen["names"] == ["scene", "front", "happy", "chunk's start"]
    assert seen["means"][:3] == ["20.0 %", "10.2 %", "19.4 %"]
    assert seen["pointed"][:2] == ["20.0 %", "5.3 %"]
    assert 38 < float(seen["pointed"][2].split()[0]) <= 40
    assert "20.0 %" in seen["title"]
    assert seen["pictures"] == [True] * 3
    assert 0.005 < seen["drawn"] < 0.3


def test_mistakes_and_unused_cues_are_shown_and_the_text_is_all_that_is_saved(started: dict):
    seen = started["timeline"]
    assert "Line 2 of the cues is 'he waves', expected a time" in seen["mistake"]
    assert seen["unused"] == ["he waves", "he blinks"]
    assert "0:10, 0:10.5" in seen["warning"]
    assert len(seen["saved"]) == 2
    assert seen["saved"][1].startswith("0:00 he talks\n0:10 [happy]")


def test_a_chunk_can_be_watched_with_sound_while_the_rest_renders(started: dict):
    assert started["before"] == {"action": "Render", "cells": 0}
    assert started["watched"]["seconds"] == pytest.approx(33 / 8, abs=0.2)
    assert started["watched"]["width"] == 64
    assert started["watched"]["position"] > 0
    assert started["watched"]["heard"] > 0
    assert started["during"]["action"] == "Cancel"
    assert started["during"]["ended"] == 0
    assert "left" in started["during"]["doing"]


def test_cancel_keeps_finished_chunks_and_a_reload_finds_them(started: dict):
    cancelled = started["cancelled"]
    assert 1 <= cancelled["done"] < cancelled["all"]
    reloaded = started["reloaded"]
    assert reloaded["done"] == cancelled["done"]
    assert reloaded["action"] == "Resume"
    assert f"{cancelled['done']} of {cancelled['all']} chunks" in reloaded["doing"]


def test_after_a_restart_the_film_is_found_and_goes_on(started: dict, resumed: dict):
    assert resumed["found"] == {"done": started["cancelled"]["done"], "action": "Resume"}
    assert resumed["finished"]["action"] == "Finished"
    num_chunks = started["cancelled"]["all"]
    assert f"{num_chunks} of {num_chunks} chunks" in resumed["finished"]["doing"]


def test_redo_makes_another_take_and_keeps_the_chunks_before(base: Path, resumed: dict):
    assert "seed 77" not in resumed["chosen"]
    assert "seed 77" in resumed["redone"]["about"]
    assert resumed["redone"]["seeds"] == "2: 77"
    assert resumed["redone"]["takes"] == ["take 2", "take 1"]
    first, second = jobs(base)
    same = [
        (first / path.name).read_bytes() == path.read_bytes() for path in sorted(second.glob("chunk_*.safetensors"))
    ]
    assert same[:2] == [True, True]
    assert not any(same[2:])
    assert (first / "film.safetensors").exists()


def test_the_page_reports_no_errors(started: dict, resumed: dict):
    assert started["errors"] == resumed["errors"] == []
