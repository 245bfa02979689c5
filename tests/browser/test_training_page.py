"""Training in ComfyUI's real page, in both node renderers: followed, left alone, steered, queued beside and stopped.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/browser/test_training_page.py
Screenshots go to `.quickstart/screenshots/training_*.png`, to be looked at.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
from PIL import Image

from gloria_core.toy_weights import write_toy_models
from gloria_core.training.run_folder import is_running, read_status, request

REPO = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SCREENSHOTS = REPO / ".quickstart" / "screenshots"
STEPS = 8
SETTINGS = "validation: {loss_every: 0, clips_every: 4, steps: 2}\nlora: {targets: [self_attn]}"
VALUES = {
    "CLIPLoader": {"clip_name": "toy_clip_l.safetensors"},
    "VAELoader": {"vae_name": "toy_wan_2.1_vae.safetensors"},
    "AudioEncoderLoader": {"audio_encoder_name": "toy_wav2vec2_base.safetensors"},
    "GloriaBuildDataset": {"size": "custom", "width": 32, "height": 32, "clip_frames": 41},
    "GloriaTrainModel": {
        "base": "toy_wan_t2v.safetensors", "preset": "debug_cpu", "steps": STEPS, "rank": 2, "settings": SETTINGS,
    },
    "GloriaCondition": {"width": 64, "height": 64},
}  # fmt: skip

pytestmark = pytest.mark.e2e


def graph(name: str) -> dict:
    return json.loads((REPO / "workflows" / f"{name}.json").read_text())


@pytest.fixture(scope="module", params=["canvas", "vue"])
def is_vue(request: pytest.FixtureRequest) -> bool:
    return request.param == "vue"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, quickstart: ModuleType) -> Path:
    """ComfyUI's base directory as the quickstart makes it, with two seconds of silent footage."""
    base = quickstart.prepare_base(tmp_path_factory.mktemp("training"))
    write_toy_models(base / "models")
    folder = base / "input" / "my_character"
    (folder / "anchors").mkdir(parents=True)
    with av.open(str(folder / "talk.mp4"), "w") as film:
        video = film.add_stream("libx264", rate=24)
        video.width = video.height = 64
        for idx in range(48):
            picture = np.full((64, 64, 3), (40, 90, 160), dtype=np.uint8)
            picture[20:44, idx : idx + 16] = (230, 180, 60)
            film.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(video.encode())
    Image.new("RGB", (64, 64), (40, 90, 160)).save(folder / "anchors" / "front.png")
    return base


@pytest.fixture(scope="module")
def report(base: Path, quickstart: ModuleType, chromium: str, node: str, is_vue: bool) -> Iterator[dict]:
    """What one browser saw of everything, on a server of its own: nothing is cached from the other renderer."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    names = {"train": "train_character_lora", "film": "cpu_talking_video", "resume": "train_resume"}
    renderer = "vue" if is_vue else "canvas"
    values = {**VALUES, "GloriaTrainModel": {**VALUES["GloriaTrainModel"], "run_name": renderer}}
    options = {"chromium": chromium, "vue": is_vue, "screenshots": str(SCREENSHOTS), "values": values}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")  # the quickstart then starts ComfyUI with --cpu
        port = quickstart.free_port()
        with quickstart.running_server(sys.executable, Path(os.environ["COMFYUI_PATH"]), base, port) as server:
            server.wait_until_ready()
            options |= {"url": server.url, **{part: graph(name) for part, name in names.items()}}
            command = [node, str(HERE / "training.mjs"), json.dumps(options)]
            result = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    try:
        assert result.returncode == 0, result.stderr
        yield json.loads(result.stdout)
    finally:
        _end_runs(base)


def _end_runs(base: Path) -> None:
    """A run outlives page and server, so also these tests when one of them fails."""
    for folder in (base / "output" / "gloria" / "training").glob("*-????????"):
        request(folder, "stop")
        deadline = time.monotonic() + 60
        while is_running(folder) and time.monotonic() < deadline:
            time.sleep(0.2)


def _contains(outer: list[float], inner: list[float]) -> bool:
    return all(outer[axis] <= inner[axis] + 0.5 for axis in (0, 1)) and all(
        inner[axis] + inner[axis + 2] <= outer[axis] + outer[axis + 2] + 0.5 for axis in (0, 1)
    )


def test_the_page_has_no_errors(report: dict):
    assert report["errors"] == []


def test_an_artist_sees_the_dataset_each_state_of_the_run_and_its_results(report: dict):
    seen = report["train"]
    assert seen["end"] == ["execution_success", ""]
    assert "1 training and 0 validation clips" in seen["dataset"].splitlines()[0]
    state, numbers, begin = seen["live"].splitlines()
    assert state.split(",")[1].strip().endswith(f"/{STEPS}")
    assert numbers.startswith("loss ")
    assert begin.startswith("new run ")
    state, _, lora, gloria, _ = seen["text"].splitlines()
    assert state == f"finished, step {STEPS}/{STEPS}"
    assert lora.endswith(f"_step{STEPS:06d}_lora.safetensors")
    assert gloria.endswith(f"_step{STEPS:06d}_gloria.safetensors")


def test_the_panel_shows_the_curve_the_numbers_and_the_clips_of_a_finished_run(report: dict):
    seen = report["train"]["panel"]
    assert (seen["state"], seen["step"]) == ("finished", f"step {STEPS} of {STEPS}")
    assert len(re.findall("[ML]", seen["curve"])) == STEPS
    assert seen["facts"] == ["smooth", "lr", "speed", "memory", "time"]
    assert len(seen["bins"]) == 8
    assert seen["cells"] == ["4", "8"]
    clip = {"kind": "video", "width": 32, "plays": True}
    assert seen["shots"] == [{"step": "4", **clip}, {"step": "8", **clip}]
    assert "_lora.safetensors" in seen["news"]
    assert report["train"]["tip"].splitlines()[0].startswith("step ")


@pytest.mark.parametrize(("part", "name"), [("train", "panel"), ("stop", "found"), ("stop", "stopped")])
def test_the_panel_is_on_the_node_in_sight_whole_and_no_picture_says_the_same_again(report: dict, part: str, name: str):
    seen = report[part][name]
    assert seen["isOn"]
    assert not any(seen["overflows"])
    assert seen["pictures"] == 0


def test_a_run_is_followed_asked_and_found_again_after_a_reload(report: dict, is_vue: bool, base: Path):
    if is_vue:
        pytest.skip("seen in the other renderer; nothing of it depends on how nodes are drawn")
    seen = report["control"]
    name = report["detach"]["text"].split()[0]
    steps = [int(seen[part]["step"].split()[1]) for part in ("first", "later", "saved", "sampled", "reloaded")]
    assert steps == sorted(steps)
    assert {seen[part]["name"] for part in ("first", "reloaded")} == {name}
    folder = base / "output" / "gloria" / "training" / name
    saved = int(seen["saved"]["news"].split("_step")[1][:6])
    assert list((folder / "results").glob(f"*_step{saved:06d}_lora.safetensors"))
    assert max(int(path.name.split("_")[1]) for path in (folder / "checkpoints").glob("step_*")) >= saved
    (shot,) = seen["sampled"]["shots"]
    assert steps[2] <= int(shot["step"]) <= steps[3]
    assert shot["kind"] == "img"  # no VAE looks at a run that nobody waits for
    assert seen["unseen"] == 0
    assert [shot["step"] for shot in seen["reloaded"]["shots"]] == [shot["step"]]


@pytest.mark.parametrize("part", ["train", "stop"])
def test_nodes_still_lie_in_their_groups_when_all_is_shown(report: dict, part: str):
    drawn = report[part]["drawn"]
    homes = {name: sum(_contains(group, box) for group in drawn["groups"]) for name, box in drawn["nodes"]}
    assert set(homes.values()) == {1}, homes


def test_a_run_that_nobody_waits_for_leaves_out_the_nodes_that_want_results(report: dict):
    assert report["detach"]["end"] == ["execution_success", ""]
    assert "is training on its own; follow it with Gloria Train Monitor" in report["detach"]["text"]


def test_who_queues_beside_a_run_gets_one_toast_that_names_it_and_how_to_stop_it(report: dict):
    name = report["detach"]["text"].split()[0]
    assert report["queueBeside"]["toasts"] == 1
    assert report["queueBeside"]["toast"].startswith(f"{name} is training\n")
    assert "Gloria Train Monitor with 'save and stop' ends it" in report["queueBeside"]["toast"]


def test_the_monitor_finds_the_run_is_queued_alone_by_its_play_button_and_its_panel_ends_it(report: dict, base: Path):
    seen = report["stop"]
    name = report["detach"]["text"].split()[0]
    assert seen["end"] == ["execution_success", ""]
    train, dataset = (
        str(node["id"])
        for kind in ("GloriaTrainModel", "GloriaBuildDataset")
        for node in graph("train_resume")["nodes"]
        if node["type"] == kind
    )
    assert not {train, dataset} & set(seen["nodes"])
    assert seen["text"].startswith(f"{name}\nasked for 'save now'")
    assert seen["found"]["name"] == seen["stopped"]["name"] == name
    assert "_lora.safetensors" in seen["stopped"]["news"]
    lora = re.fullmatch(r"In the loaders: (\S+_lora\.safetensors), \S+_gloria\.safetensors", seen["listed"])[1]
    assert (base / "models" / "loras" / lora).is_file()
    folder = base / "output" / "gloria" / "training" / name
    assert not is_running(folder)
    assert read_status(folder)["state"] == "stopped"
