"""Footage to dataset to LoRA to video with the shipped workflows on a real server, and every way to be broken off.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/e2e/test_training_server.py
One server serves all tests; it is killed and started again in the middle.
"""

import asyncio
import contextlib
import copy
import json
import os
import re
import resource
import signal
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import quickstart
from gloria_core.toy_weights import write_toy_models
from gloria_core.training.run_folder import is_running, read_metrics, read_status
from gloria_core.training.snapshot import find_latest

pytestmark = pytest.mark.e2e

REPO = Path(__file__).resolve().parents[2]
TWINS = REPO / "tests" / "workflows" / "api"
STEPS = 20
FOOTAGE = "my_character"
PREVIEW, TEXT = 1, 3  # ComfyUI's numbers of binary messages
SETTINGS = (
    "data: {frames: [21], max_bad_entries: 0}\nlora: {targets: [self_attn]}\nmax_bad_steps: 2\nbatch_size: 2\n"
    "validation: {loss_every: 0, clips_every: 10, steps: 2}\ncheckpoints: {every: 10}"
)
TOY_VALUES = {
    "CLIPLoader": {"clip_name": "toy_clip_l.safetensors"},
    "VAELoader": {"vae_name": "toy_wan_2.1_vae.safetensors"},
    "AudioEncoderLoader": {"audio_encoder_name": "toy_wav2vec2_base.safetensors"},
    "GloriaBuildDataset": {"size": "custom", "width": 32, "height": 32, "clip_frames": 41},
    "GloriaTrainModel": {
        "base": "toy_wan_t2v.safetensors", "preset": "debug_cpu", "steps": STEPS, "rank": 2, "settings": SETTINGS,
    },
    "GloriaLoadModel": {"base": "toy_wan_t2v.safetensors"},
    "GloriaCondition": {"width": 64, "height": 64, "length": 21},
    "GloriaSampleLongVideo": {"chunk_frames": 21, "steps": 1},
    "KSampler": {"steps": 2, "sampler_name": "euler"},
}  # fmt: skip
TRAIN = "GloriaTrainModel"


# --- a server and its messages ---------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What one prompt sent over the web socket, in order, and what ComfyUI's history keeps of it."""

    messages: list[tuple[str, Any]]
    history: dict[str, Any]

    def of(self, kind: str) -> list[Any]:
        return [data for name, data in self.messages if name == kind]

    @property
    def error(self) -> str:
        """What the page shows when a prompt failed."""
        (message,) = [data for kind, data in self.history["status"]["messages"] if kind == "execution_error"]
        return f"{message['exception_type']}: {message['exception_message']}"

    def shown(self, node: str) -> str:
        return "\n".join(map(str, self.history["outputs"][node]["text"]))


# Called with each message; what it does is done in the middle of the run.
OnMessage = Callable[[str, Any], None]


class Host:
    """ComfyUI in one base directory, which outlives its server."""

    def __init__(self, base: Path, comfyui: Path) -> None:
        self.base = base
        self._comfyui = comfyui
        self._stack = contextlib.ExitStack()

    def start(self) -> None:
        starting = quickstart.running_server(sys.executable, self._comfyui, self.base, quickstart.free_port())
        self.server = self._stack.enter_context(starting)
        self.server.wait_until_ready()

    def kill(self) -> None:
        self.server.process.kill()
        self.server.process.wait()

    def stop(self) -> None:
        self._stack.close()

    def post(self, path: str, body: dict[str, Any]) -> None:
        """A request whose answer is empty."""
        data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(self.server.url + path, data, kind), timeout=30).close()

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def run(
        self, prompt: dict[str, Any], on_message: OnMessage = lambda kind, data: None, only: Sequence[str] = ()
    ) -> Outcome:
        """Queue a prompt, or some of its output nodes, and see it through to its end, or to that of the server."""
        messages: list[tuple[str, Any]] = []
        body = {"prompt": prompt, **({"partial_execution_targets": list(only)} if only else {})}
        prompt_id = asyncio.run(_watch(self.server.url, body, messages, on_message))
        history = {} if self.server.process.poll() is not None else self._history(prompt_id)
        return Outcome(messages, history)

    def _history(self, prompt_id: str) -> dict[str, Any]:
        # The entry is written just after the last message.
        return wait_for(lambda: self.server.request(f"/history/{prompt_id}"), "the history")[prompt_id]

    def signal(self, run_name: str, number: int) -> None:
        """To the trainer. A stopped one keeps its lock and computes nothing until it is told to go on."""
        os.kill(read_status(self.run_folder(run_name))["pid"], number)

    def run_folder(self, name: str) -> Path:
        (folder,) = (self.base / "output" / "gloria" / "training").glob(f"{name}-????????")
        return folder


async def _watch(url: str, body: dict[str, Any], messages: list[tuple[str, Any]], on_message: OnMessage) -> str:
    client = uuid.uuid4().hex
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/ws?clientId={client}") as socket:
        await socket.receive()
        async with session.post(f"{url}/prompt", json={**body, "client_id": client}) as answer:
            queued = await answer.json()
        assert queued.get("node_errors") == {}, queued
        async for message in socket:
            kind, data = _parse(message)
            messages.append((kind, data))
            await asyncio.to_thread(on_message, kind, data)
            if kind in ("execution_success", "execution_error", "execution_interrupted"):
                break
    return queued["prompt_id"]


def _parse(message: aiohttp.WSMessage) -> tuple[str, Any]:
    if message.type == aiohttp.WSMsgType.TEXT:
        content = json.loads(message.data)
        return content["type"], content["data"]
    kind, body = int.from_bytes(message.data[:4], "big"), message.data[4:]
    if kind == PREVIEW:
        return "preview", body[4:]
    assert kind == TEXT
    length = int.from_bytes(body[:4], "big")
    lines = body[4 + length :].decode().replace("  \n", "\n")  # the page reads Markdown, where lines end like this
    return "text", {"node": body[4 : 4 + length].decode(), "text": lines}


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)
    return value


def once(pattern: str, act: Callable[[], None]) -> OnMessage:
    """Does something when the page first shows a text that begins like this."""
    done = []

    def on_message(kind: str, data: Any) -> None:
        if kind == "text" and not done and re.match(pattern, data["text"]):
            done.append(True)
            act()

    return on_message


TRAINING = r"training, step (?!0/)"


# --- workflows and footage -------------------------------------------------------------------------------------------


def twin(name: str, **train_values: Any) -> dict[str, Any]:
    """A shipped workflow as the page queues it, with toy files and sizes in its widgets."""
    prompt = json.loads((TWINS / f"{name}.json").read_text())
    for node in prompt.values():
        node["inputs"] |= TOY_VALUES.get(node["class_type"], {})
        if node["class_type"] == TRAIN:
            node["inputs"] |= train_values
    return prompt


def node_id(prompt: dict[str, Any], class_type: str) -> str:
    (found,) = [key for key, node in prompt.items() if node["class_type"] == class_type]
    return found


def train(host: Host, run_name: str, on_message: OnMessage = lambda kind, data: None, **values: Any) -> Outcome:
    return host.run(twin("train_character_lora", run_name=run_name, **values), on_message)


def write_footage(folder: Path) -> None:
    """Five seconds of a moving square that speaks, a caption and two labelled anchors."""
    (folder / "anchors").mkdir(parents=True)
    with av.open(str(folder / "talk.mp4"), "w") as film, av.open(str(REPO / "assets" / "speech.ogg")) as speech:
        video = film.add_stream("libx264", rate=24)
        video.width = video.height = 64
        sound = film.add_stream("aac", rate=16000, layout="mono")
        for idx in range(120):
            picture = np.full((64, 64, 3), (40, 90, 160), dtype=np.uint8)
            picture[20:44, 8 + idx % 32 : 24 + idx % 32] = (230, 180, 60)
            film.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(video.encode())
        resampler = av.AudioResampler("s16", "mono", 16000)
        for frame in speech.decode(audio=0):
            if frame.time >= 5:
                break
            film.mux([packet for piece in resampler.resample(frame) for packet in sound.encode(piece)])
        film.mux(sound.encode())
    (folder / "talk.txt").write_text("a person talks")
    for label in ("front", "happy"):
        Image.new("RGB", (64, 64), (40, 90, 160)).save(folder / "anchors" / f"{label}.png")


def weights(folder: Path) -> dict[str, np.ndarray]:
    """All trained tensors that a finished run left as files."""
    tensors = {}
    for role, file in read_status(folder)["results"].items():
        with safe_open(file, "np") as content:
            tensors |= {f"{role}.{key}": content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    return tensors


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder)[0]]


def is_bit_equal(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    same = ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ours)
    return same and losses(one) == losses(other)


def frames(host: Host, outcome: Outcome, node: str) -> np.ndarray:
    (saved,) = outcome.history["outputs"][node]["images"]
    with av.open(str(host.base / "output" / saved["subfolder"] / saved["filename"])) as film:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]).astype(float)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, comfyui: Path) -> Iterator[Host]:
    base = quickstart.prepare_base(tmp_path_factory.mktemp("training"))
    write_toy_models(base / "models")
    write_footage(base / "input" / FOOTAGE)
    host = Host(base, comfyui)
    try:
        host.start()
        yield host
    finally:
        host.stop()


@pytest.fixture(autouse=True)
def _no_run_is_left(host: Host) -> Iterator[None]:
    """A run outlives everything, so also a test that failed."""
    yield
    for folder in (host.base / "output" / "gloria" / "training").glob("*-????????"):
        if is_running(folder):
            os.kill(read_status(folder)["pid"], signal.SIGKILL)


@pytest.fixture(scope="module")
def dataset(host: Host) -> Outcome:
    return host.run(twin("train_make_dataset"))


@pytest.fixture(scope="module")
def unbroken(host: Host, dataset: Outcome) -> Outcome:
    outcome = train(host, "unbroken")
    assert outcome.history["status"]["status_str"] == "success", outcome.history["status"]
    return outcome


# --- the way from footage to video -----------------------------------------------------------------------------------


def test_the_dataset_workflow_reports_what_it_found(dataset: Outcome):
    report = dataset.shown(node_id(twin("train_make_dataset"), "PreviewAny"))
    assert "1 videos, 3 training and 0 validation clips" in report
    assert "clips with speech features: 3 of 3" in report
    assert "viewpoint anchors: 1: front 100 %" in report
    assert report in [text["text"] for text in dataset.of("text")], "the node shows it too"


def test_the_page_follows_the_steps_with_loss_speed_time_left_and_memory(unbroken: Outcome):
    node = node_id(twin("train_character_lora"), TRAIN)
    steps = [message["value"] for message in unbroken.of("progress") if message["node"] == node]
    assert steps == sorted(steps)
    # Which steps a look meets depends on the machine's speed; some must be met before the last one.
    assert 0 < steps[0] < STEPS
    assert steps[-1] == STEPS
    texts = [text["text"] for text in unbroken.of("text") if text["node"] == node]
    line = r"training, step \d+/20, [\d:]+ left\nloss \d+\.\d{4}, \d+\.\d\d s/step, \d+\.\d GiB memory, stage character"
    assert any(re.match(line, text) for text in texts), texts
    assert texts[-1].startswith("finished, step 20/20\n")
    assert "lora: gloria/unbroken_step000020_lora.safetensors" in texts[-1]


def test_the_page_can_ask_for_the_whole_curve_and_sees_the_newest_clip_decoded(host: Host, unbroken: Outcome):
    name = host.run_folder("unbroken").name
    assert host.server.request("/gloria/training?name=unbroken")[0] == name
    run = host.server.request(f"/gloria/training/{name}")
    assert [point[:2] for point in run["points"]] == [
        [step + 1, pytest.approx(loss, rel=1e-4)] for step, loss in enumerate(losses(host.run_folder("unbroken")))
    ]
    steps = host.server.request(f"/gloria/training/{name}/clips")
    assert [entry["step"] for entry in steps] == [10, 20]
    assert steps[-1]["clips"] == {"clip0": True}


def test_the_results_are_listed_by_the_loaders_of_the_running_server(host: Host, unbroken: Outcome):
    def listed(node: str, name: str) -> list[str]:
        return host.server.request(f"/object_info/{node}")[node]["input"]["required"][name]

    assert "gloria/unbroken_step000020_lora.safetensors" in json.dumps(listed("LoraLoaderModelOnly", "lora_name"))
    assert "unbroken_step000020_gloria.safetensors" in json.dumps(listed("GloriaLoadModel", "gloria_weights"))


def test_the_comparing_workflow_shows_what_the_lora_changed_and_nothing_at_strength_0(host: Host, unbroken: Outcome):
    prompt = twin("train_compare_before_after")
    gloria, lora, after, video = "4", "5", "12", "14"
    prompt[gloria]["inputs"]["gloria_weights"] = "unbroken_step000020_gloria.safetensors"
    prompt[lora]["inputs"]["lora_name"] = "gloria/unbroken_step000020_lora.safetensors"
    for node, source in ((lora, "model"), (after, "model"), (video, "latent")):
        prompt[f"{node}0"] = copy.deepcopy(prompt[node])
        if node != lora:
            prompt[f"{node}0"]["inputs"][source][0] += "0"
    prompt[f"{lora}0"]["inputs"]["strength_model"] = 0.0
    outcome = host.run(prompt)
    before, without, with_lora = (frames(host, outcome, node) for node in ("13", f"{video}0", video))
    assert before.shape == (21, 64, 64, 3)
    assert np.array_equal(before, without)
    assert np.abs(before - with_lora).mean() > 1


# --- broken off ------------------------------------------------------------------------------------------------------


def test_cancel_ends_after_the_step_and_the_same_queue_goes_on_bit_for_bit(host: Host, unbroken: Outcome):
    steps_at_cancel: list[int] = []
    notices: list[dict[str, Any]] = []

    def cancel() -> None:
        host.signal("cancelled", signal.SIGSTOP)
        notices.append(_notice_for_a_prompt_behind(host))
        steps_at_cancel.append(len(losses(host.run_folder("cancelled"))))
        host.interrupt()

    def go_on() -> None:
        host.signal("cancelled", signal.SIGCONT)

    begin, end = once(TRAINING, cancel), once("cancelled: it finishes this step and saves", go_on)
    outcome = train(host, "cancelled", lambda kind, data: (begin(kind, data), end(kind, data)))
    assert outcome.messages[-1][0] == "execution_interrupted"
    folder = host.run_folder("cancelled")
    status = read_status(folder)
    assert status["state"] == "stopped"
    assert status["step"] == len(losses(folder)) == find_latest(folder).step
    assert status["step"] - steps_at_cancel[0] in (0, 1), "the step it was frozen in, and no other"
    assert all(Path(file).is_file() for file in status["results"].values())
    assert any(text["text"].startswith("saved; queue again to go on\nstopped, step ") for text in outcome.of("text"))
    assert notices[0]["run"] == folder.name
    assert "What you queued waits until it ends" in notices[0]["text"]

    again = train(host, "cancelled")
    assert any(f"{folder.name} goes on after step {status['step']}" in text["text"] for text in again.of("text"))
    assert is_bit_equal(folder, host.run_folder("unbroken"))


def _notice_for_a_prompt_behind(host: Host) -> dict[str, Any]:
    """Queue a prompt and take it back; what its sender was told."""
    client = uuid.uuid4().hex
    with contextlib.closing(host.server.messages(client)) as messages:
        next(messages)
        host.server.request("/prompt", {"prompt": _short_film(), "client_id": client})
        notice = next(data for kind, data in messages if kind == "gloria.training")
    host.post("/queue", {"clear": True})
    return notice


def test_a_run_outlives_its_server_and_the_next_one_finds_tells_and_finishes_it(host: Host, unbroken: Outcome):
    def kill_the_server() -> None:
        host.signal("left", signal.SIGSTOP)  # so that it is still under way when everything has been looked at
        host.kill()

    train(host, "left", once(TRAINING, kill_the_server))
    folder = host.run_folder("left")
    step = len(losses(folder))
    host.signal("left", signal.SIGCONT)
    wait_for(lambda: len(losses(folder)) > step, "a step after the server's death")
    host.signal("left", signal.SIGSTOP)
    pid = read_status(folder)["pid"]
    try:
        host.start()
        watch, status = (node_id(twin("train_resume"), name) for name in ("GloriaMonitorTraining", "PreviewAny"))
        watching = twin("train_resume")
        watching["curve"] = {"class_type": "PreviewImage", "inputs": {"images": [watch, 0]}}
        watched = host.run(watching, only=(watch, status, "curve"))
        shown = watched.shown(status)
        assert re.match(rf"{folder.name}\n(training|saving|validating), step \d+/20", shown), shown
        assert watched.history["outputs"]["curve"]["images"], "the loss curve"
        assert not watched.of("gloria.training"), "the monitor does not compete with the run"

        film = host.run(_short_film())
        assert film.messages[-1][0] == "execution_success", film.history
        (notice,) = film.of("gloria.training")
        assert notice["run"] == folder.name
        assert "Gloria Train Monitor with 'save and stop' ends it" in notice["text"]
        assert any(f"slower: {folder.name} trains on the same device" in text["text"] for text in film.of("text"))

        refused = train(host, "second")
        assert f"ConfigError: Another training uses this machine: {folder.name}. Stop it with Gloria" in refused.error
        attached = train(host, "left", once("training|saving|validating", lambda: os.kill(pid, signal.SIGCONT)))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert any("was found running" in text["text"] for text in attached.of("text"))
    assert read_status(folder)["pid"] == pid
    assert is_bit_equal(folder, host.run_folder("unbroken"))


def _short_film() -> dict[str, Any]:
    """The demo model's workflow without speech, its first chunk in one step."""
    prompt = json.loads((TWINS / "cpu_talking_video.json").read_text())
    for node in prompt.values():
        changed = {"GloriaCondition": {"length": 33}, "GloriaSampleLongVideo": {"steps": 1}}
        node["inputs"] |= changed.get(node["class_type"], {})
    for node in ("LoadAudio", "GloriaEncodeAudio"):
        del prompt[node_id(prompt, node)]
    for node in prompt.values():
        values = node["inputs"].items()
        node["inputs"] = {key: x for key, x in values if not isinstance(x, list) or x[0] in prompt}
    return prompt


# --- faults, as the history tells them -------------------------------------------------------------------------------


def test_damaged_entries_and_a_full_disk_are_named_and_the_same_queue_then_ends_as_the_unbroken_one(
    host: Host, unbroken: Outcome
):
    entries = sorted((host.base / "output" / "gloria" / "datasets").glob("*/entries/clip_*.safetensors"))
    whole = [path.read_bytes() for path in entries]
    assert len(entries) == 3

    def damage() -> None:
        entries[0].write_bytes(whole[0][:-1] + bytes([whole[0][-1] ^ 1]))
        entries[1].unlink()
        entries[2].write_bytes(whole[2][: len(whole[2]) // 2])

    failed = train(host, "faults", once("starting", damage))
    assert re.search(r"TrainingError: Training failed: \d samples could not be read", failed.error), failed.error
    assert re.search(rf"{re.escape(str(entries[0].parent))}\S+ \(of '.+'\) is (damaged|missing)", failed.error)
    assert "Build the dataset again" in failed.error

    def fill_the_disk() -> None:
        pid = read_status(host.run_folder("faults"))["pid"]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, 100_000))

    failed = train(host, "faults", once(TRAINING, fill_the_disk))
    assert [path.read_bytes() for path in entries] == whole
    assert "TrainingError: Training failed: Disk full (or a size limit reached) while writing" in failed.error
    assert "free space and run the same again" in failed.error
    folder = host.run_folder("faults")
    assert not [path for path in folder.rglob("*") if path.suffix in (".tmp", ".partial")]

    assert train(host, "faults").messages[-1][0] == "execution_success"
    assert is_bit_equal(folder, host.run_folder("unbroken"))


def test_a_loss_that_is_nan_ends_the_run_with_its_cause_and_nothing_is_saved(host: Host, unbroken: Outcome):
    hopeless = f"{SETTINGS}\noptimizer: {{lr: 1.0e+30, clip_norm: 0}}"
    failed = train(host, "nan", settings=hopeless)
    assert "TrainingError: Training failed: 2 steps in a row had a loss or gradient that is NaN" in failed.error
    assert "Lower the learning rate" in failed.error
    assert not list(host.run_folder("nan").rglob("*.safetensors"))


def test_a_changed_dataset_starts_a_run_beside_that_says_why_also_when_nobody_waits_for_it(
    host: Host, unbroken: Outcome
):
    before = host.run_folder("unbroken")
    kept = losses(before)
    (host.base / "input" / FOOTAGE / "talk.txt").write_text("a person in blue talks")
    started = train(host, "unbroken", steps=2, mode="detached")
    shown = started.shown(node_id(twin("train_character_lora"), TRAIN))
    assert "is training on its own; follow it with Gloria Train Monitor" in shown
    assert f"beside {before.name} (step 20), because of changes: data.dataset has another content" in shown
    assert started.messages[-1][0] == "execution_success", "nodes that want results are left out"
    (beside,) = set(before.parent.glob("unbroken-*")) - {before}
    wait_for(lambda: not is_running(beside), "the end of the run")
    watch = node_id(twin("train_resume"), "GloriaMonitorTraining")
    shown = host.run(twin("train_resume"), only=(watch,)).shown(watch)
    assert shown.startswith(f"{beside.name}\nfinished, step 2/2")
    assert "unbroken_step000002_lora" in shown
    assert losses(before) == kept
