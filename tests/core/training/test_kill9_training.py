"""Kill -9 while training, then again until done. Run: python -m pytest tests/core/training/test_kill9_training.py"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parent))
from toy_run import toy_config, toy_settings

from gloria_core.train import train
from gloria_core.training.run_folder import read_metrics, read_status, request
from gloria_core.training.snapshot import find_latest

ROOT = Path(__file__).resolve().parents[3]
STEPS = 60
CHANGES = {
    "stages": [
        {"name": "audio", "steps": 20, "train": "audio", "identity_anchors": "none"},
        {"name": "anchors", "steps": STEPS - 20},
    ],
    "checkpoints": {"every": 4},
    "ema_decay": 0.9,
}


def start(settings, folder):
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gloria_core.train", str(path)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def is_training(folder):
    status = read_status(folder) or {}
    return status.get("state") in ("training", "saving")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = toy_config(tmp_path_factory.mktemp("whole"), **CHANGES)
    assert train(config)
    torch.set_num_threads(threads)
    return Path(config.output)


def losses(folder):
    return [line["loss"] for line in read_metrics(folder)[0]]


def assert_same_results(folder, whole):
    assert losses(folder) == losses(whole)
    for role, path in read_status(whole)["results"].items():
        found, expected = load_file(read_status(folder)["results"][role]), load_file(path)
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_kill_9_at_random_points_then_again_gives_the_unbroken_run(tmp_path, whole):
    settings = toy_settings(tmp_path, **CHANGES)
    folder, rng, steps = Path(settings["output"]), random.Random(1), []
    for _ in range(3):
        (folder / "status.json").unlink(missing_ok=True)
        process = start(settings, tmp_path)
        while not is_training(folder) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.5))
        process.kill()
        process.wait()
        snapshot = find_latest(folder)
        steps.append(snapshot.step if snapshot else 0)
    assert steps == sorted(steps)
    process = start(settings, tmp_path)
    assert process.wait(120) == 0
    assert_same_results(folder, whole)


def test_a_signal_to_end_finishes_the_step_and_saves(tmp_path, whole):
    settings = toy_settings(tmp_path, **CHANGES)
    folder = Path(settings["output"])
    process = start(settings, tmp_path)
    while not is_training(folder):
        time.sleep(0.005)
    process.terminate()
    assert process.wait(60) == 3
    status = read_status(folder)
    assert status["state"] == "stopped"
    assert find_latest(folder).step == status["step"]
    assert start(settings, tmp_path).wait(120) == 0
    assert_same_results(folder, whole)


def test_save_and_sample_on_request_do_not_change_the_run(tmp_path, whole):
    settings = toy_settings(tmp_path, **CHANGES)
    folder = Path(settings["output"])
    process = start(settings, tmp_path)
    while not is_training(folder):
        time.sleep(0.005)
    request(folder, "save")
    request(folder, "sample")
    assert process.wait(120) == 0
    assert list((folder / "samples").glob("*.safetensors"))
    assert len(list((folder / "results").glob("*_lora.safetensors"))) == 2
    assert_same_results(folder, whole)
