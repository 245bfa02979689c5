"""Checkpoints and the run folder under faults. Run: python -m pytest tests/core/training/test_snapshot.py"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).resolve().parents[3]))

from gloria_core.errors import JournalError, TrainingError
from gloria_core.training.run_folder import (
    RunFolder,
    is_running,
    read_metrics,
    read_status,
    request,
)
from gloria_core.training.snapshot import find_latest, prune, save_snapshot

ROOT = Path(__file__).resolve().parents[3]


def groups(step):
    return {"weights": {"w": torch.full((64, 64), float(step))}, "optimizer": {"m": torch.full((64, 64), step + 0.5)}}


def save(folder, *steps):
    for step in steps:
        save_snapshot(folder, step, groups(step), {"losses": [0.0] * step})


def newest(folder):
    """Step of the newest good checkpoint, whose parts must belong together."""
    snapshot = find_latest(folder)
    if snapshot is None:
        return 0
    assert torch.equal(snapshot.load("weights")["w"], groups(snapshot.step)["weights"]["w"])
    assert torch.equal(snapshot.load("optimizer")["m"], groups(snapshot.step)["optimizer"]["m"])
    assert len(snapshot.state["losses"]) == snapshot.step
    return snapshot.step


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage_flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("weights.safetensors", damage_truncate),
        ("optimizer.safetensors", damage_flip),
        ("weights.safetensors", Path.unlink),
        ("state.json", lambda path: path.write_text('{"step": 2')),
        ("COMPLETE", Path.unlink),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_its_reason(tmp_path, caplog, file, damage):
    save(tmp_path, 1, 2)
    damage(tmp_path / "checkpoints" / "step_00000002" / file)
    assert newest(tmp_path) == 1
    assert "step_00000002 is passed over" in caplog.text


def test_old_checkpoints_go_and_at_least_two_stay(tmp_path):
    save(tmp_path, *range(1, 8))
    prune(tmp_path, keep_last=2, keep_every=3)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [f"step_{step:08d}" for step in (3, 6, 7)]
    save(tmp_path, 8)
    prune(tmp_path, keep_last=1, keep_every=0)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_nan_is_never_saved(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(TrainingError, match="'w' in weights is NaN"):
        save_snapshot(tmp_path, 2, {"weights": {"w": torch.tensor([torch.nan])}}, {})
    assert newest(tmp_path) == 1


SAVER = """
import sys
sys.path[:0] = [{root!r}, {here!r}]
from pathlib import Path
from test_snapshot import find_latest, newest, prune, save
folder = Path(sys.argv[1])
step = newest(folder)
print("ready", flush=True)
while True:
    step += 1
    save(folder, step)
    prune(folder, 2, 0)
"""


def test_kill_9_while_saving_leaves_a_good_checkpoint_every_time(tmp_path):
    script = SAVER.format(root=str(ROOT), here=str(Path(__file__).parent))
    rng, best = random.Random(0), 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(rng.uniform(0.05, 0.25))
        process.kill()
        process.wait()
        now = newest(tmp_path)
        assert now >= best
        best = now
    assert best > 6


FULL_DISK = """
import resource, sys
sys.path[:0] = [{root!r}, {here!r}]
from pathlib import Path
from test_snapshot import save
from gloria_core.errors import JournalError
folder = Path(sys.argv[1])
save(folder, 1, 2)
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
try:
    save(folder, 3)
except JournalError as error:
    print("refused:", error)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a limit on file sizes")
def test_a_full_disk_is_a_clear_error_and_keeps_the_checkpoints_before(tmp_path):
    script = FULL_DISK.format(root=str(ROOT), here=str(Path(__file__).parent))
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "refused:" in result.stdout, result.stderr
    assert newest(tmp_path) == 2
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


def test_a_disk_without_room_is_refused_before_writing(tmp_path, monkeypatch):
    save(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(JournalError, match="this checkpoint needs"):
        save(tmp_path, 2)
    assert newest(tmp_path) == 1


# --- the run folder --------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from gloria_core.training.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_never_train_in_one_folder_and_a_dead_ones_lock_is_free(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(root=str(ROOT)), str(tmp_path)], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    assert is_running(tmp_path)
    with pytest.raises(TrainingError, match="Another process trains"), RunFolder(tmp_path):
        pass
    os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    assert not is_running(tmp_path)
    with RunFolder(tmp_path):
        assert is_running(tmp_path)


def test_requests_are_taken_once_and_old_ones_do_not_count(tmp_path):
    request(tmp_path, "stop")
    with RunFolder(tmp_path) as folder:
        assert folder.requests() == set()
        request(tmp_path, "save")
        request(tmp_path, "sample")
        assert folder.requests() == {"save", "sample"}
        assert folder.requests() == set()
    with pytest.raises(TrainingError, match="Unknown request"):
        request(tmp_path, "../../stop")


def test_metrics_are_read_as_they_grow_and_a_torn_line_waits(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.append_metrics({"step": 1})
        lines, offset = read_metrics(tmp_path)
        assert lines == [{"step": 1}]
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 2')
        assert read_metrics(tmp_path, offset) == ([], offset)
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write("}\n")
        assert read_metrics(tmp_path, offset)[0] == [{"step": 2}]


def test_going_on_drops_the_steps_that_will_be_made_again(tmp_path):
    with RunFolder(tmp_path) as folder:
        for step in range(1, 6):
            folder.append_metrics({"step": step})
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 6, "lo')
        folder.truncate_metrics(3)
        folder.append_metrics({"step": 4})
        assert [line["step"] for line in read_metrics(tmp_path)[0]] == [1, 2, 3, 4]


def test_the_status_is_always_whole(tmp_path):
    assert read_status(tmp_path) is None
    with RunFolder(tmp_path) as folder:
        folder.write_status({"state": "training", "step": 3})
        status = read_status(tmp_path)
        assert (status["state"], status["step"], status["pid"]) == ("training", 3, os.getpid())
