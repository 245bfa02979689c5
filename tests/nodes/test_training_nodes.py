"""Footage to dataset to LoRA to video, through the nodes. Run: pytest tests/nodes/test_training_nodes.py"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import comfy.latent_formats
import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy.audio_encoders.audio_encoders import load_audio_encoder_from_sd
from comfy_api.latest import InputImpl, io
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).resolve().parents[1] / "core" / "extraction"))

from toy_scene import noisy, toy_source, write_joints_file, write_toy_video

import nodes as comfyui_nodes
from gloria_pack.gloria_core.data.cache import CacheStore
from gloria_pack.gloria_core.data.cache_index import read_index
from gloria_pack.gloria_core.data.manifest import read_manifest
from gloria_pack.gloria_core.data.read_clip import read_clip
from gloria_pack.gloria_core.errors import ConfigError, DatasetError, TrainingError
from gloria_pack.gloria_core.media.encode_video import frame_rate
from gloria_pack.gloria_core.toy_weights import write_toy_models
from gloria_pack.gloria_core.training.run_folder import is_running, read_status, request
from gloria_pack.gloria_core.training.validate import clip_conditions
from gloria_pack.nodes.bridge.dataset import LINKED
from gloria_pack.nodes.bridge.model import load_gloria_model
from gloria_pack.nodes.bridge.sampling import with_shift
from gloria_pack.nodes.bridge.training_process import TrainingProcess
from gloria_pack.nodes.bridge.training_runs import publish_results, runs_root
from gloria_pack.nodes.build_dataset import GloriaBuildDataset
from gloria_pack.nodes.condition import GloriaCondition
from gloria_pack.nodes.decode_video import GloriaDecodeVideo
from gloria_pack.nodes.extract_anchors import GloriaExtractAnchors
from gloria_pack.nodes.monitor_training import GloriaMonitorTraining
from gloria_pack.nodes.relabel_anchors import GloriaRelabelAnchors
from gloria_pack.nodes.train_model import GloriaTrainModel

REPO = Path(__file__).resolve().parents[2]
SIDE, CLIP_FRAMES = 32, 41
QUICK = "data: {frames: [21]}\nvalidation: {loss_every: 0, clips_every: 0}\nlora: {targets: [self_attn]}"
SLOW = f"{QUICK}\nbatch_size: 3"  # slow enough to be caught in the act


@pytest.fixture(scope="module")
def models(base_directory):
    paths = write_toy_models(base_directory / "models")
    yield paths
    for path in paths.values():
        path.unlink()


@pytest.fixture(scope="module")
def encoders(models):
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(models["vae"])))
    clip = comfy.sd.load_clip([str(models["text_encoder"])], clip_type=comfy.sd.CLIPType.WAN)
    hears = load_audio_encoder_from_sd(comfy.utils.load_torch_file(str(models["audio_encoder"])))
    return {"vae": vae, "clip": clip, "audio_encoder": hears}


@pytest.fixture(scope="module")
def footage(base_directory):
    """A video of color fields with sound, a caption and two labelled anchors."""
    import av
    import numpy as np
    from PIL import Image

    folder = base_directory / "input" / "anna"
    (folder / "anchors").mkdir(parents=True)
    with av.open(str(folder / "talk.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=24)
        video.width = video.height = 64
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for idx in range(96):
            picture = np.full((64, 64, 3), (2 * idx, 120, 200 - idx), dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        wave = (np.sin(np.arange(64000) * 0.05) * 8000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        for piece in [*audio.encode(frame), *audio.encode()]:
            container.mux(piece)
    (folder / "talk.txt").write_text("a woman talks")
    for label in ("front", "happy"):
        Image.new("RGB", (64, 64), (10, 200, 90)).save(folder / "anchors" / f"{label}.png")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def no_runs():
    """No run of another test; the dataset stays."""
    shutil.rmtree(runs_root(), ignore_errors=True)


def run_node(node, **inputs):
    """Runs a node with its hidden inputs set the way ComfyUI's executor sets them."""
    locked = node.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "7"}})
    return locked.execute(**inputs).args


def build(encoders, **changes):
    arguments = {"folder": "anna", "size": "custom", "clip_frames": CLIP_FRAMES, "for_image_to_video": False,
                 "width": SIDE, "height": SIDE, **encoders, **changes}  # fmt: skip
    return run_node(GloriaBuildDataset, **arguments)


@pytest.fixture(scope="module")
def dataset(encoders, footage):
    return build(encoders)[0]


def train(dataset, name, steps=4, settings=QUICK, mode="wait", vae=None, **changes):
    arguments = {"dataset": dataset, "base": "toy_wan_t2v.safetensors", "gloria_weights": "none", "run_name": name,
                 "preset": "debug_cpu", "steps": steps, "learning_rate": 0.0, "rank": 2, "seed": 1,
                 **changes}  # fmt: skip
    return run_node(GloriaTrainModel, **arguments, mode=mode, settings=settings, vae=vae)


def run_folder(name):
    (folder,) = runs_root().glob(f"{name}-*")
    return folder


def in_thread(function):
    """Runs a node as ComfyUI's worker does, beside the test; returns the thread and what came out."""
    result = {}

    def work():
        try:
            with torch.inference_mode():
                result["value"] = function()
        except BaseException as error:
            result["error"] = error

    thread = threading.Thread(target=work)
    thread.start()
    return thread, result


def wait_for(condition, result=None, seconds=90):
    start = time.monotonic()
    while not condition():
        assert not (result or {}).get("error"), result
        assert time.monotonic() - start < seconds
        time.sleep(0.02)


def step_of(name):
    folders = list(runs_root().glob(f"{name}-*")) if runs_root().is_dir() else []
    status = read_status(folders[0]) if folders else None
    return (status or {}).get("step", 0) if status and status.get("state") == "training" else 0


def test_a_dataset_holds_what_comfyuis_encoders_make(dataset, encoders, footage):
    index, store = read_index(dataset), CacheStore(dataset)
    assert index.audio_shape == (13, 768)
    assert {(a.kind, a.label) for a in index.sources[0].anchors} >= {("viewpoint", "front"), ("expression", "happy")}
    clip = index.clips[1]
    frames = read_clip(footage / "talk.mp4", clip.start, CLIP_FRAMES, 24.0, SIDE, SIDE)
    raw = encoders["vae"].encode(frames)
    expected = comfy.latent_formats.Wan21().process_in(raw)[0]
    torch.testing.assert_close(store.load(clip.latents)["latents"].float(), expected, atol=2e-3, rtol=2e-3)
    text = encoders["clip"].encode_from_tokens_scheduled(encoders["clip"].tokenize("a woman talks"))[0][0][0]
    torch.testing.assert_close(store.load(clip.text)["text"].float(), text, atol=2e-2, rtol=1e-2)


def test_the_report_says_what_is_there(encoders, footage):
    report = build(encoders)[1]
    assert "1 videos, 3 training and 0 validation clips" in report
    assert "viewpoint anchors: 1: front 100 % (paper 29.6)" in report


def test_a_lost_entry_makes_the_node_run_again_and_repair_it(encoders, footage):
    store, clip = CacheStore(build(encoders)[0]), read_index(build(encoders)[0]).clips[0]
    inputs = {"folder": "anna", "size": "custom", "width": SIDE, "height": SIDE, "clip_frames": CLIP_FRAMES}
    before = GloriaBuildDataset.fingerprint_inputs(**inputs)
    assert GloriaBuildDataset.fingerprint_inputs(**inputs) == before
    (store.folder / "entries" / f"{clip.latents}.safetensors").unlink()
    assert GloriaBuildDataset.fingerprint_inputs(**inputs) != before
    build(encoders)
    assert store.has(clip.latents)


def test_anchors_are_scaled_to_the_sizes_of_the_conditioning(encoders, footage):
    smaller = {"viewpoint_size": 48, "expression_size": 32}
    # The last one leaves the dataset as the other tests know it.
    for changes, viewpoint, expression in (({}, 64, 64), (smaller, 48, 32), ({}, 64, 64)):
        (source,) = read_index(build(encoders, **changes)[0]).sources
        sides = {anchor.kind: anchor.latent_size for anchor in source.anchors if anchor.kind != "global"}
        assert sides == {"viewpoint": (viewpoint // 8,) * 2, "expression": (expression // 8,) * 2}


def test_folders_outside_the_input_folder_are_refused(encoders, footage):
    for name in ("../secret", "/etc", "anna/../anna", "nothing"):
        with pytest.raises(DatasetError, match="no folder of videos"):
            build(encoders, folder=name)


def test_training_through_the_node_gives_a_lora_that_stock_nodes_load(dataset, models, no_runs):
    lora, losses, steps, files = train(dataset, "first")
    assert steps == 4
    assert len(losses["loss"]) == 4
    names = dict(line.split(": ") for line in files.splitlines())
    path = folder_paths.get_full_path_or_raise("loras", names["lora"])
    on_disk = load_file(path)
    assert on_disk.keys() == lora.keys()
    gloria = Path(folder_paths.get_full_path_or_raise("gloria", names["gloria"]))
    model = load_gloria_model(models["dit_t2v"], gloria, {})
    patched, _ = comfy.sd.load_lora_for_models(model, None, on_disk, 1.0, 0)
    assert len(patched.patches) == len([key for key in lora if key.endswith(".alpha")]) == 16


def test_queueing_a_finished_run_again_returns_it_and_more_steps_go_on(dataset, no_runs):
    first = train(dataset, "again")
    again = train(dataset, "again")
    assert again[1] == first[1]
    assert again[2] == 4
    more = train(dataset, "again", steps=6)
    assert more[2] == 6
    assert more[1]["loss"][:4] == first[1]["loss"]
    assert len(list(runs_root().glob("again-*"))) == 1
    train(dataset, "again", seed=2)
    assert len(list(runs_root().glob("again-*"))) == 2


def test_cancel_saves_and_queueing_again_gives_the_unbroken_result(dataset, no_runs):
    whole = train(dataset, "whole", steps=60, settings=SLOW)
    thread, result = in_thread(lambda: train(dataset, "broken", steps=60, settings=SLOW))
    wait_for(lambda: step_of("broken") >= 3, result)
    comfy.model_management.interrupt_current_processing(True)
    thread.join(90)
    assert isinstance(result["error"], comfy.model_management.InterruptProcessingException)
    assert not comfy.model_management.processing_interrupted()
    status = read_status(run_folder("broken"))
    assert status["state"] == "stopped"
    assert 3 <= status["step"] < 60
    assert Path(status["results"]["lora"]).is_file()
    resumed = train(dataset, "broken", steps=60, settings=SLOW)
    assert resumed[1] == whole[1]
    assert all(torch.equal(resumed[0][key], whole[0][key]) for key in whole[0])


def test_cancel_reaches_a_trainer_that_is_only_just_starting(dataset, no_runs):
    thread, result = in_thread(lambda: train(dataset, "early", steps=4000, settings=SLOW))
    wait_for(lambda: any(runs_root().glob("early-*/log.txt")), result)
    assert not is_running(run_folder("early")), "it has not taken its folder yet"
    comfy.model_management.interrupt_current_processing(True)
    thread.join(90)
    assert isinstance(result["error"], comfy.model_management.InterruptProcessingException)
    assert read_status(run_folder("early"))["state"] == "stopped"
    assert read_status(run_folder("early"))["step"] == 1


def test_cancel_that_meets_the_progress_bar_or_a_clip_stops_the_run_too_and_a_second_one_ends_it_at_once(
    dataset, no_runs
):
    """ComfyUI's progress bar and its VAE raise the interruption themselves, in the middle of showing a status."""
    thread, result = in_thread(lambda: train(dataset, "met", steps=4000, settings=SLOW, mode="detached"))
    thread.join(90)
    assert "error" not in result, result
    folder = run_folder("met")
    seen = []

    def show(status, is_stopping):
        seen.append(is_stopping)
        if not is_stopping:
            os.kill(status["pid"], signal.SIGSTOP)  # so that it cannot end before the second Cancel
        if len(seen) in (1, 3):
            raise comfy.model_management.InterruptProcessingException

    status, is_cancelled = TrainingProcess(folder).follow(show)
    assert is_cancelled
    assert seen == [False, True, True]
    assert (folder / "control" / "stop").exists()
    wait_for(lambda: not is_running(folder))
    assert status["state"] != "stopped"
    assert train(dataset, "met", steps=status["step"] + 2, settings=SLOW)[2] == status["step"] + 2


def test_a_killed_trainer_is_reported_and_the_run_goes_on(dataset, no_runs):
    thread, result = in_thread(lambda: train(dataset, "killed", steps=60, settings=SLOW))
    wait_for(lambda: step_of("killed") >= 12, result)
    os.kill(read_status(run_folder("killed"))["pid"], signal.SIGKILL)
    thread.join(30)
    assert isinstance(result["error"], TrainingError)
    assert "exit code -9). Something killed it; usually the machine ran out of memory." in str(result["error"])
    assert train(dataset, "killed", steps=60, settings=SLOW)[2] == 60


@pytest.fixture
def small_disk(no_runs):
    """A disk of its own for the runs, which can be filled to the last byte."""
    runs_root().mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(runs_root())]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield runs_root()
    subprocess.run(["umount", "-l", str(runs_root())], check=True)


def test_a_disk_without_a_byte_left_is_named_though_the_trainer_cannot_write_why(dataset, small_disk):
    thread, result = in_thread(lambda: train(dataset, "full", steps=4000, settings=SLOW))
    wait_for(lambda: step_of("full") >= 1, result)
    trainer = read_status(run_folder("full"))["pid"]
    os.kill(trainer, signal.SIGSTOP)  # or a save that meets a nearly full disk gives space back to say why
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            pass
    os.kill(trainer, signal.SIGCONT)
    thread.join(60)
    assert isinstance(result["error"], TrainingError)
    assert f"The disk of {run_folder('full')} is full: free space there." in str(result["error"])
    (small_disk / "filler").unlink()
    steps = read_status(run_folder("full"))["step"] + 2
    assert train(dataset, "full", steps=steps, settings=SLOW)[2] == steps


def test_a_detached_run_is_found_again_watched_and_stopped(dataset, encoders, no_runs):
    slow = "data: {frames: [21]}\nvalidation: {loss_every: 1, levels: 2, clips_every: 0}"
    files = train(dataset, "alone", steps=4000, settings=slow, mode="detached")[3]
    assert "training on its own" in files
    folder = run_folder("alone")
    assert is_running(folder)
    with pytest.raises(ConfigError, match="Another training uses this machine: alone-"):
        train(dataset, "other")
    wait_for(lambda: step_of("alone") >= 2)
    curve, _, losses, text = run_node(GloriaMonitorTraining, run="newest", action="watch")
    assert curve.shape == (1, 480, 960, 3)
    assert len(losses["loss"]) >= 2
    assert "training, step" in text
    thread, result = in_thread(lambda: train(dataset, "alone", steps=4000, settings=slow))
    time.sleep(1)
    run_node(GloriaMonitorTraining, run=folder.name, action="save and stop")
    thread.join(60)
    assert "error" not in result, result
    assert result["value"][2] == read_status(folder)["step"] < 4000
    assert not is_running(folder)


def test_what_the_trainer_refuses_becomes_the_nodes_error(dataset, no_runs):
    for mode in ("wait", "detached"):
        with pytest.raises(TrainingError, match="No training clip is long enough"):
            train(dataset, "long", settings="data: {frames: [81]}", mode=mode)
    with pytest.raises(ConfigError, match=r"unknown field\(s\) stepz"):
        train(dataset, "typo", settings="stepz: 3")
    with pytest.raises(ConfigError, match="not YAML"):
        train(dataset, "typo", settings="{")
    with pytest.raises(ConfigError, match="name is"):
        train(dataset, "../escape")


def test_text_settings_cannot_reach_files_outside(dataset, no_runs, tmp_path):
    settings = f"{QUICK}\noutput: {tmp_path}/out\nbase: /etc/passwd\nname: other"
    train(dataset, "inside", steps=1, settings=settings)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"validation\.vae"):
        train(dataset, "inside", settings=f"validation: {{vae: {tmp_path}}}")


def test_the_newest_validation_clips_are_decoded_with_the_connected_vae(dataset, encoders, no_runs):
    settings = "data: {frames: [21]}\nvalidation: {loss_every: 2, clips_every: 1, steps: 2}"
    train(dataset, "clips", steps=2, settings=settings)
    assert len(list((run_folder("clips") / "samples").glob("*.safetensors"))) == 2
    train(dataset, "clips", steps=2, settings=settings, vae=encoders["vae"])
    (video,) = (run_folder("clips") / "samples").glob("*.mp4")
    frames = read_clip(video, 0.0, 21, float(frame_rate(24.0)), SIDE, SIDE)
    assert frames.shape == (21, SIDE, SIDE, 3)
    _, strip, _, _ = run_node(GloriaMonitorTraining, run="newest", action="watch", vae=encoders["vae"])
    assert strip.shape == (1, 192, 6 * 192, 3)


def test_published_files_never_replace_others(tmp_path, base_directory):
    source = tmp_path / "run_step000001_lora.safetensors"
    source.write_bytes(b"one")
    first = publish_results({"lora": str(source)})["lora"]
    assert publish_results({"lora": str(source)})["lora"] == first
    source.unlink()
    source.write_bytes(b"two")
    second = publish_results({"lora": str(source)})["lora"]
    assert second != first
    assert Path(folder_paths.get_full_path("loras", first)).read_bytes() == b"one"
    assert Path(folder_paths.get_full_path("loras", second)).read_bytes() == b"two"


def test_a_stop_request_left_over_does_not_stop_the_next_run(dataset, no_runs):
    train(dataset, "left", steps=2)
    request(run_folder("left"), "stop")
    assert train(dataset, "left", steps=4)[2] == 4


@pytest.mark.parametrize("strength", [1.0, 0.0])
def test_stock_sampling_with_the_trained_lora_repeats_the_trainers_own_validation(
    dataset, models, no_runs, tmp_path, strength
):
    """Same weights, conditions, seed and steps through ComfyUI's KSampler; without the LoRA the clip is another."""
    validation = "validation: {loss_every: 0, clips_every: 4, steps: 4, seed: 7}"
    settings = f"data: {{frames: [21]}}\n{validation}\noptimizer: {{lr: 0.01}}"
    _, _, _, files = train(dataset, "parity", settings=settings)
    names = dict(line.split(": ") for line in files.splitlines())
    (clip_file,) = (run_folder("parity") / "samples").glob("*.safetensors")
    expected = load_file(clip_file)["latents"][None]

    gloria = Path(folder_paths.get_full_path_or_raise("gloria", names["gloria"]))
    model = load_gloria_model(models["dit_t2v"], gloria, {})
    (model, _) = comfyui_nodes.LoraLoader().load_lora(model, None, names["lora"], strength, 0)
    model = with_shift(model, 5.0)
    index, store = read_index(dataset), CacheStore(dataset)
    conditions = clip_conditions(store, index, index.clips[0], with_anchors=True)
    raw = comfy.latent_formats.Wan21().process_out
    anchors = {"gloria_anchors": [raw(x) for x in conditions.anchors], "gloria_anchor_slots": conditions.anchor_slots}
    audio = conditions.audio_FLC
    positive = [[conditions.text_BLD, {**anchors, "gloria_audio": audio}]]
    negative = [[conditions.negative_text_BLD, {**anchors, "gloria_audio": torch.zeros_like(audio)}]]
    samples = torch.zeros(1, 16, 6, SIDE // 8, SIDE // 8)
    samples[:, :, :1] = raw(conditions.start_BCTHW)
    mask = torch.ones(1, 1, 6, 1, 1)
    mask[:, :, :1] = 0.0
    latent = {"samples": samples, "noise_mask": mask}
    with torch.inference_mode():
        (result,) = comfyui_nodes.common_ksampler(model, 7, 4, 3.5, "euler", "simple", positive, negative, latent)
    found = comfy.latent_formats.Wan21().process_in(result["samples"])
    difference = (found - expected).abs().max()
    if strength:
        assert difference < 2e-3
    else:
        assert difference > 0.05


@pytest.fixture
def toy_footage(base_directory):
    """A toy character that turns, and where its joints were."""
    folder = base_directory / "input" / "toy"
    source = noisy(toy_source(0, seconds=8.0, size=128), seed=70)
    write_toy_video(folder / "walk.mp4", source)
    write_joints_file(folder / "walk.joints.npz", source)
    yield folder / "walk.mp4"
    shutil.rmtree(folder)


def test_footage_becomes_anchors_a_dataset_a_lora_and_a_film(toy_footage, encoders, models, no_runs):
    limits = "anchors: {min_body_height: 64, full_body_height: 100}\nfootage: {min_side: 64}"
    folder = run_node(
        GloriaExtractAnchors, name="toy", find_viewpoints=True, per_label=2, find_cuts=False,
        pose_file="toy/walk.joints.npz", expression_classifier="none",
        video=InputImpl.VideoFromFile(str(toy_footage)), settings=f"clip_frames: {CLIP_FRAMES}\n{limits}",
    )[3]  # fmt: skip
    anchors, _, _, footage = run_node(GloriaRelabelAnchors, footage=folder, decisions="1 drop")
    views = [anchor.label for anchor in read_manifest(folder).sources[0].anchors if anchor.kind == "viewpoint"]
    assert views

    dataset, report = build(encoders, folder=LINKED, footage=footage)
    index = read_index(dataset)
    kept = [anchor.label for source in index.sources for anchor in source.anchors if anchor.kind == "viewpoint"]
    assert sorted(kept) == sorted(views)
    assert f"viewpoint anchors: {len(views)}" in report
    _, losses, steps, files = train(dataset, "toy", steps=3)
    assert (steps, len(losses["loss"])) == (3, 3)

    names = dict(line.split(": ") for line in files.splitlines())
    gloria = Path(folder_paths.get_full_path_or_raise("gloria", names["gloria"]))
    (model, _) = comfyui_nodes.LoraLoader().load_lora(
        load_gloria_model(models["dit_t2v"], gloria, {}), None, names["lora"], 1.0, 0
    )
    with torch.inference_mode():
        text = encoders["clip"].encode_from_tokens_scheduled(encoders["clip"].tokenize("a toy turns around"))
        positive, negative, latent = run_node(
            GloriaCondition, positive=text, negative=text, vae=encoders["vae"], width=SIDE, height=SIDE, length=21,
            anchors=anchors, viewpoint_size=64,
        )  # fmt: skip
        shown = positive[0][1]["gloria_anchor_slots"]
        assert set(shown) == {("global", "global"), *(("viewpoint", label) for label in views)}
        model = with_shift(model, 5.0)
        (film,) = comfyui_nodes.common_ksampler(model, 7, 2, 3.5, "euler", "simple", positive, negative, latent)
        (video,) = run_node(
            GloriaDecodeVideo, latent=film, vae=encoders["vae"], fps=24.0, filename_prefix="gloria/toy", crf=17
        )
    frames = read_clip(Path(video.get_stream_source()), 0.0, 21, 24.0, SIDE, SIDE)
    assert frames.shape == (21, SIDE, SIDE, 3)
    assert float(frames.std()) > 0.01
