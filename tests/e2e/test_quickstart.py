"""The README's command on real input: a real ComfyUI server makes the example video over its HTTP API.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/e2e/test_quickstart.py
"""

import hashlib
import math
from pathlib import Path

import av
import pytest
from PIL import Image

from benchmarks.demo_film import report_on
from gloria_core.demo.film_sheet import write_pictures

REPO = Path(__file__).resolve().parents[2]
FPS = 8

pytestmark = pytest.mark.e2e


def _speech_frames() -> int:
    with av.open(str(REPO / "assets" / "speech_60s.ogg")) as file:
        samples = sum(frame.samples for frame in file.decode(audio=0))
        return math.ceil(samples / file.streams.audio[0].rate * FPS)


def _frame_digests(video: str) -> list[str]:
    with av.open(video) as film:
        return [hashlib.sha256(frame.to_ndarray()).hexdigest() for frame in film.decode(video=0)]


def test_video_has_every_frame_of_the_speech(made: dict):
    assert made["frames"] == _speech_frames()
    assert made["seconds"] >= 60


def test_sound_is_as_long_as_the_picture(made: dict):
    assert abs(made["audio_seconds"] - made["seconds"]) <= 1 / FPS


def test_picture_moves(made: dict):
    digests = _frame_digests(made["video"])
    assert len(set(digests)) > 0.9 * len(digests)


def test_the_film_shows_what_its_timeline_and_its_speech_ask_for(made: dict):
    report = report_on(Path(made["video"]), every=4)
    assert report.readable > 0.9
    assert report.view > 0.8  # chance: 0.25
    assert report.mood > 0.5  # chance: 0.125
    assert report.mark_front > 0.8
    assert report.mark_color_elsewhere > 0.4  # chance: 0.125
    assert report.mouth_follows_speech > 0.2


def test_the_documentations_pictures_can_be_made_of_it(made: dict, tmp_path: Path):
    sheet, animation = write_pictures(Path(made["video"]), tmp_path / "film", (8.0, 10.0))
    with Image.open(sheet) as picture:
        assert picture.width == 1120
    with Image.open(animation) as picture:
        assert picture.n_frames == 2 * FPS


def test_video_was_made_of_several_chunks(made: dict):
    jobs = list((made["folder"] / "base" / "output" / "gloria").glob("cpu_talking_video-*"))
    assert len(jobs) == 1
    assert len(list(jobs[0].glob("chunk_*.safetensors"))) >= 20


def test_a_comfyui_that_is_not_ours_stays_as_it_was(made: dict):
    assert not made["changed"]


def test_second_run_reuses_the_finished_job_and_shows_the_same_picture(made: dict, quickstart_run):
    chunks = sorted((made["folder"] / "base" / "output" / "gloria").glob("cpu_talking_video-*/chunk_*"))
    before = [path.stat().st_mtime_ns for path in chunks]
    again = quickstart_run(made["folder"])
    assert [path.stat().st_mtime_ns for path in chunks] == before
    assert _frame_digests(again["video"]) == _frame_digests(made["video"])
