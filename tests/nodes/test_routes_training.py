"""What the training monitor may see and ask of runs in ComfyUI's output folder, and what it may not.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_routes_training.py
"""

import io
import json
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gloria_pack.gloria_core.training.run_folder import RunFolder
from gloria_pack.nodes.bridge.routes import MAX_BODY_BYTES
from gloria_pack.nodes.bridge.routes_training import TRAINING_ROUTES
from gloria_pack.nodes.bridge.training_runs import runs_root

RUN = "anna-0123abcd"
SECRET = b"not for the page"
NUM_LATENTS = 3


@pytest.fixture(scope="module")
def page_routes():
    return TRAINING_ROUTES


@pytest.fixture
def run(output_directory):
    """A run under way after two steps, held by this process as a trainer holds it."""
    with RunFolder(runs_root() / RUN) as folder:
        results = {"lora": "/runs/x.safetensors", "unknown": "/etc/passwd"}
        folder.write_status({"state": "training", "step": 2, "total_steps": 30, "results": results})
        for step in (1, 2):
            folder.append_metrics({"step": step, "loss": 1 / (3 * step), "lr": 1e-4, "stage": "character"})
        folder.write_validation({"step": 2, "loss": 0.25})
        samples = folder.path / "samples"
        for name in ("step_000010_clip0", "step_000020_clip0", "step_000020_rollout"):
            latents = torch.randn(16, NUM_LATENTS, 4, 6, generator=torch.Generator().manual_seed(0))
            save_file({"latents": latents}, samples / f"{name}.safetensors", {"fps": "24.0"})
        (samples / "step_000010_clip0.mp4").write_bytes(b"a video")
        (samples / ".step_000030_clip0.mp4.partial").write_bytes(b"half a video")
        (folder.path / "log.txt").write_bytes(SECRET)
        (samples / "step_000040_clip0.mp4").symlink_to(folder.path / "log.txt")
        (samples / "step_000050_clip0.mp4").symlink_to("/etc/passwd")
        yield folder


@pytest.fixture
def ask(page_server):
    def get(path="", **query):
        answer = page_server.ask("GET", f"/gloria/training{path}?" + "&".join(f"{k}={v}" for k, v in query.items()))
        return answer

    return get


def test_runs_are_listed_by_the_name_they_were_started_under_newest_first(run, ask):
    for name in ("anna-ffffffff", "anna-b-01234567", "bert-01234567"):
        with RunFolder(runs_root() / name) as other:
            time.sleep(0.01)
            other.write_status({"state": "finished"})
    (runs_root() / "anna-00000000").mkdir()  # nothing was written yet
    assert ask().json == ["bert-01234567", "anna-b-01234567", "anna-ffffffff", RUN]
    assert ask(name="anna").json == ["anna-ffffffff", RUN]
    assert ask(name="ann.").json == ask(name="").json == ask(name="..").json == []


def test_a_run_is_told_with_its_curve(run, ask):
    seen = ask(f"/{RUN}").json
    assert (seen["state"], seen["is_running"], seen["step"], seen["total_steps"]) == ("training", True, 2, 30)
    assert seen["points"] == [[1, 0.33333, 0.33333, 0.33333, 1e-4], [2, 0.16667, 0.16667, 0.24916, 1e-4]]
    assert (seen["held_out"], seen["stages"]) == ([[2, 0.25]], [[1, "character"]])
    assert seen["results"] == ["x.safetensors"]


def test_only_what_is_new_is_sent_and_all_of_it_when_the_page_knows_another_run(run, ask):
    first = ask(f"/{RUN}").json
    run.append_metrics({"step": 3, "loss": 0.5, "lr": 1e-4, "stage": "character"})
    known = {"version": first["version"], "after": 1, "held_out_after": 2}
    news = ask(f"/{RUN}", **known).json
    assert ([point[0] for point in news["points"]], news["held_out"]) == ([2, 3], [])
    run.truncate_metrics(1)
    anew = ask(f"/{RUN}", **known).json
    assert ([point[0] for point in anew["points"]], anew["held_out"]) == ([1], [])
    assert len(ask(f"/{RUN}", version=anew["version"], after="0x1", held_out_after="-5;").json["points"]) == 1


def test_a_long_run_stays_light(run, ask):
    with (run.path / "metrics.jsonl").open("a") as file:
        for step in range(3, 20_000):
            file.write(json.dumps({"step": step, "loss": 0.1 + 1 / step, "lr": 1e-4, "stage": "character"}) + "\n")
    whole = ask(f"/{RUN}")
    assert len(whole.json["points"]) <= 1000
    assert len(whole.body) < 64_000
    after = whole.json["points"][-2][0]
    assert len(ask(f"/{RUN}", version=whole.json["version"], after=after, held_out_after=2).body) < 1500


def test_a_run_whose_process_is_gone_is_not_called_training(output_directory, ask):
    for state, told in (("training", "gone"), ("starting", "gone"), ("failed", "failed"), ("stopped", "stopped")):
        with RunFolder(runs_root() / RUN) as folder:
            folder.write_status({"state": state, "error": "why"})
        seen = ask(f"/{RUN}").json
        assert (seen["state"], seen["is_running"], seen["error"]) == (told, False, "why")
        assert seen["points"] == []


@pytest.mark.parametrize("name", ["stop", "save", "sample"])
def test_a_request_reaches_the_trainer_once_and_is_shown_until_then(run, ask, page_server, name):
    answer = page_server.post(f"training/{RUN}/request", {"request": name})
    assert (answer.status, answer.json) == (200, {"asked": [name]})
    assert ask(f"/{RUN}").json["asked"] == [name]
    assert run.requests() == {name}
    assert ask(f"/{RUN}").json["asked"] == []


def test_a_run_that_has_ended_and_a_request_that_does_not_exist_are_refused(output_directory, page_server):
    with RunFolder(runs_root() / RUN) as folder:
        folder.write_status({"state": "training"})
        for name in ("../../stop", "", None, ["stop"], {"stop": 1}):
            answer = page_server.post(f"training/{RUN}/request", {"request": name, "run": "other"})
            assert (answer.status, "Unknown request" in answer.json["error"]) == (400, True)
    answer = page_server.post(f"training/{RUN}/request", {"request": "stop"})
    assert (answer.status, f"{RUN} is not running" in answer.json["error"]) == (400, True)
    assert not list((runs_root() / RUN / "control").iterdir())


def test_results_and_nothing_else_that_a_status_names_come_into_the_loaders_folders(run, page_server, base_directory):
    (run.path / "results" / "anna.safetensors").write_bytes(b"weights")
    run.write_status({"state": "training", "results": {"lora": "/elsewhere/anna.safetensors", "other": "/etc/passwd"}})
    answer = page_server.post(f"training/{RUN}/publish", {})
    assert (answer.status, answer.json) == (200, {"lora": str(Path("gloria", "anna.safetensors"))})
    listed = base_directory / "models" / "loras" / "gloria" / "anna.safetensors"
    assert listed.read_bytes() == b"weights"
    listed.unlink()
    for file in ("/etc/passwd", "../status.json", ".."):
        run.write_status({"state": "training", "results": {"lora": file}})
        assert page_server.post(f"training/{RUN}/publish", {}).status == 404
    assert not list(listed.parent.iterdir())


def test_foreign_malformed_and_large_requests_ask_nothing_of_a_run(run, page_server):
    ours = {"Content-Type": "application/json", "X-Gloria-Request": "1", "Origin": page_server.origin}
    body = b'{"request": "stop"}'
    for status, changes, sent in (
        (403, {"Origin": "https://foreign.example"}, body),
        (403, {"X-Gloria-Request": "0"}, body),
        (403, {"Sec-Fetch-Site": "cross-site"}, body),
        (415, {"Content-Type": "text/plain"}, body),
        (413, {}, b'{"request": "stop", "a": "' + b"x" * MAX_BODY_BYTES + b'"}'),
        (400, {}, b"request=stop"),
    ):
        answer = page_server.ask("POST", f"/gloria/training/{RUN}/request", sent, **{**ours, **changes})
        assert answer.status == status, changes
    unsigned = {name: value for name, value in ours.items() if name != "X-Gloria-Request"}
    assert page_server.ask("POST", f"/gloria/training/{RUN}/request", body, **unsigned).status == 403
    assert page_server.ask("GET", f"/gloria/training/{RUN}/request?request=stop", **ours).status in (404, 405)
    assert run.requests() == set()


@pytest.mark.parametrize("name", [
    "absent-0123abcd", "..", ".", "%2e%2e", "..%2ftraining%2f" + RUN, RUN + "%2f.", RUN + "%2f..%2f" + RUN, "%00",
    "linked-0123abcd", "x" * 1001, RUN + "%5c", "%2fetc",
])  # fmt: skip
def test_unknown_runs_and_ways_out_of_the_folder_get_the_same_answer(run, ask, page_server, base_directory, name):
    outside = base_directory / "elsewhere"
    outside.mkdir(exist_ok=True)
    (outside / "status.json").write_text('{"state": "finished"}')
    (runs_root() / "linked-0123abcd").symlink_to(outside)
    unknown = ask("/surely-absent-0123abcd")
    assert (unknown.status, "no such training run" in unknown.json["error"]) == (404, True)
    for path in ("", "/clips", "/clips/step_000010_clip0.mp4"):
        answer = ask(f"/{name}{path}")
        assert answer.status == 404
        assert b"finished" not in answer.body
    assert page_server.post(f"training/{name}/request", {"request": "stop"}).status in (404, 405)
    assert not (outside / "control").exists()


def test_clips_are_listed_by_step_with_what_is_decoded(run, ask):
    for link in (run.path / "samples").glob("*_0000[45]0_*"):
        link.unlink()
    assert ask(f"/{RUN}/clips").json == [
        {"step": 10, "clips": {"clip0": True}},
        {"step": 20, "clips": {"clip0": False, "rollout": False}},
    ]
    before = ask(f"/{RUN}").json["clips"]
    time.sleep(0.02)
    (run.path / "samples" / "step_000020_clip0.mp4").write_bytes(b"")
    assert ask(f"/{RUN}").json["clips"] != before


def test_a_decoded_clip_is_sent_as_it_is_and_another_as_a_rough_film_of_its_latents(run, ask):
    video = ask(f"/{RUN}/clips/step_000010_clip0.mp4")
    assert (video.status, video.body, video.headers["Content-Type"]) == (200, b"a video", "video/mp4")
    rough = ask(f"/{RUN}/clips/step_000020_rollout.webp")
    assert (rough.status, rough.headers["Content-Type"]) == (200, "image/webp")
    with Image.open(io.BytesIO(rough.body)) as film:
        assert (film.n_frames, film.size) == (NUM_LATENTS, (6, 4))
        film.load()
        assert film.info["duration"] == 167  # four frames of 24 in a second


@pytest.mark.parametrize("name", [
    "step_000010_clip0.safetensors", "step_000010_clip0", "step_000010_clip0.mp4.partial", "step_000050_clip0.mp4",
    ".step_000030_clip0.mp4.partial", "..%2flog.txt", "..%2f..%2f" + RUN + "%2flog.txt", "log.txt", "step_10_clip0.mp4",
    "step_000099_clip0.webp", "step_000010_clip0.html", "%00.mp4",
])  # fmt: skip
def test_nothing_but_clips_is_sent(run, ask, name):
    answer = ask(f"/{RUN}/clips/{name}")
    assert answer.status == 404
    assert SECRET not in answer.body
