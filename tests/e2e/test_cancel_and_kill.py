"""Cancel and kill -9 of a real server in the middle of a film, then the same queue again.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/e2e/test_cancel_and_kill.py
"""

import contextlib
import hashlib
import json
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import av
import pytest

import quickstart

pytestmark = pytest.mark.e2e

REPO = Path(__file__).resolve().parents[2]
NUM_CHUNKS = 6


def short_film(job: str) -> dict:
    """The demo model's workflow without speech: six chunks."""
    workflow = json.loads((REPO / "tests" / "workflows" / "api" / "cpu_talking_video.json").read_text())
    for node in ("10", "12"):
        del workflow[node]
    del workflow["13"]["inputs"]["audio_features"], workflow["15"]["inputs"]["audio"], workflow["16"]["inputs"]["audio"]
    workflow["13"]["inputs"]["length"] = 133
    workflow["15"]["inputs"] |= {"steps": 8, "job_name": job}
    workflow["16"]["inputs"]["filename_prefix"] = f"gloria/{job}"
    return workflow


@contextlib.contextmanager
def server(base: Path, comfyui: Path):
    with quickstart.running_server(sys.executable, comfyui, base, quickstart.free_port()) as running:
        running.wait_until_ready()
        yield running


def queue(running, workflow: dict) -> str:
    return running.request("/prompt", {"prompt": workflow, "client_id": uuid.uuid4().hex})["prompt_id"]


def wait_for(condition, what: str, seconds: float = 200):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)
    return value


def records(base: Path, job: str) -> dict[str, int]:
    """Committed chunks of a job, with the time each was written."""
    root = base / "output" / "gloria"
    return {path.name: path.stat().st_mtime_ns for path in sorted(root.glob(f"{job}-*/chunk_*.json"))}


def film_bytes(base: Path, job: str) -> str:
    (path,) = (base / "output" / "gloria").glob(f"{job}-*/film.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def frames(base: Path, video: Path) -> list[str]:
    with av.open(str(base / "output" / video)) as film:
        return [hashlib.sha256(frame.to_ndarray()).hexdigest() for frame in film.decode(video=0)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quickstart.prepare_base(tmp_path_factory.mktemp("broken"))


@pytest.fixture(scope="module")
def unbroken(base: Path, comfyui: Path) -> tuple[str, list[str]]:
    with server(base, comfyui) as running:
        video = quickstart.make_video(running, short_film("unbroken"))
    assert len(records(base, "unbroken")) == NUM_CHUNKS
    return film_bytes(base, "unbroken"), frames(base, video)


def test_cancel_keeps_finished_chunks_and_the_same_queue_goes_on(base, comfyui, unbroken):
    with server(base, comfyui) as running:
        prompt = queue(running, short_film("cancelled"))
        wait_for(lambda: len(records(base, "cancelled")) >= 2, "the second chunk")
        urllib.request.urlopen(urllib.request.Request(running.url + "/interrupt", method="POST"))
        history = wait_for(lambda: running.request(f"/history/{prompt}"), "the end of the cancelled run")
        kinds = [kind for kind, _ in history[prompt]["status"]["messages"]]
        kept = records(base, "cancelled")
        assert "execution_interrupted" in kinds
        assert 2 <= len(kept) < NUM_CHUNKS
        video = quickstart.make_video(running, short_film("cancelled"))
    after = records(base, "cancelled")
    assert len(after) == NUM_CHUNKS
    assert kept.items() <= after.items()
    assert (film_bytes(base, "cancelled"), frames(base, video)) == unbroken


def test_killed_server_goes_on_after_a_restart_with_the_same_film(base, comfyui, unbroken):
    for num_chunks in (1, 4):
        with server(base, comfyui) as running:
            queue(running, short_film("killed"))
            wait_for(lambda n=num_chunks: len(records(base, "killed")) >= n, f"chunk {num_chunks}")
            running.process.kill()
            running.process.wait()
    kept = records(base, "killed")
    assert 4 <= len(kept) <= NUM_CHUNKS
    with server(base, comfyui) as running:
        video = quickstart.make_video(running, short_film("killed"))
    assert kept.items() <= records(base, "killed").items()
    assert (film_bytes(base, "killed"), frames(base, video)) == unbroken
