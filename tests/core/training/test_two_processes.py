"""Two processes compute what one computes. Run: python -m pytest tests/core/training/test_two_processes.py"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parent))
from toy_run import toy_config, toy_settings

from gloria_core.errors import ConfigError
from gloria_core.train import train
from gloria_core.training.run_folder import read_metrics, read_status, request

ROOT = Path(__file__).resolve().parents[3]


def run_processes(settings, path, count=2):
    path.write_text(yaml.safe_dump(settings))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command = [sys.executable, *launcher, "-m", "gloria_core.train", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=environment)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_have_the_losses_and_results_of_one(tmp_path, method):
    stages = [
        {"name": "audio", "steps": 2, "train": "audio", "identity_anchors": "none"},
        {"name": "anchors", "steps": 3, "identity_anchors": "one_type"},
    ]
    changes = {"method": method, "stages": stages, "batch_size": 4, "ema_decay": 0.5}
    one = toy_config(tmp_path, output=str(tmp_path / "one"), **changes)
    assert train(one)
    two = toy_settings(tmp_path, output=str(tmp_path / "two"), **changes)
    result = run_processes(two, tmp_path / "two.yaml")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    left, right = ([line["loss"] for line in read_metrics(tmp_path / name)[0]] for name in ("one", "two"))
    torch.testing.assert_close(right, left, rtol=1e-4, atol=1e-5)
    for role, path in read_status(tmp_path / "one")["results"].items():
        other = load_file(read_status(tmp_path / "two")["results"][role])
        for key, tensor in load_file(path).items():
            torch.testing.assert_close(other[key], tensor, rtol=1e-2, atol=2e-4)


def test_a_sharded_run_resumes_with_the_same_number_of_processes_and_refuses_another(tmp_path):
    settings = toy_settings(
        tmp_path,
        method="full",
        stages=[{"name": "one", "steps": 4}],
        checkpoints={"every": 2},
        output=str(tmp_path / "run"),
    )
    whole = {**settings, "output": str(tmp_path / "whole")}
    assert run_processes(whole, tmp_path / "whole.yaml").returncode == 0
    half = {**settings, "stages": [{"name": "one", "steps": 2}]}
    assert run_processes(half, tmp_path / "half.yaml").returncode == 0
    assert run_processes(settings, tmp_path / "run.yaml").returncode == 0
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)[0]] for name in ("run", "whole")]
    assert losses[0] == losses[1]
    longer = {**settings, "stages": [{"name": "one", "steps": 5}]}
    result = run_processes(longer, tmp_path / "longer.yaml", count=1)
    assert result.returncode != 0
    assert "processes was 2" in read_status(tmp_path / "run")["error"]


def test_a_stop_on_request_is_no_failure_for_the_launcher(tmp_path):
    folder = tmp_path / "run"
    settings = toy_settings(tmp_path, output=str(folder), stages=[{"name": "one", "steps": 100_000}])
    done = threading.Event()

    def ask():
        while not read_metrics(folder)[0] and not done.is_set():
            time.sleep(0.05)
        request(folder, "stop")

    asker = threading.Thread(target=ask)
    asker.start()
    result = run_processes(settings, tmp_path / "run.yaml")
    done.set()
    asker.join()
    assert result.returncode == 0, result.stderr[-4000:]
    assert read_status(folder)["state"] == "stopped"
    assert "ChildFailedError" not in result.stderr


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_a_launcher_that_shards_by_itself_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ConfigError, match="Launch with --multi_gpu"):
        train(toy_config(tmp_path))
