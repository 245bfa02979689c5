"""Kill -9 while a film is sampled and written, run again until done: the film must be the unbroken one, byte for byte.

Run: python -m pytest tests/core/test_kill9.py
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gloria_core.durable_files import file_sha256
from gloria_core.sampling.job_folder import ChunkRecord

sys.path.append(str(Path(__file__).parent))
from toy_film import make_toy_film, open_toy_journal

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

NUM_KILLS = 30


class Runner:
    """Starts runs of the toy film in forked processes, so that a kill hits our work and not Python's start."""

    def __init__(self):
        script = Path(__file__).with_name("toy_film.py")
        self.server = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line):
        self.server.stdin.write(line + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def run_and_kill(self, root, seconds):
        pid = self.ask(f"start {root}")
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)  # not yet waited for, so the pid is still this run's
        return self.ask("wait")

    def run(self, root):
        self.ask(f"start {root}")
        return self.ask("wait")


@pytest.fixture(scope="module")
def runner():
    runner = Runner()
    with tempfile.TemporaryDirectory() as folder:
        runner.run(folder)  # waits for the server's own start
    yield runner
    runner.server.stdin.close()
    runner.server.wait()


@pytest.fixture
def root():
    """In memory where the system has it: a killed process leaves the same files, and fsync costs nothing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def unbroken(runner, root):
    root = root / "unbroken"
    start = time.perf_counter()
    assert runner.run(root) == 0
    seconds = time.perf_counter() - start
    (film,) = root.glob("toy-*/film.safetensors")
    return film.read_bytes(), seconds


def committed_chunks(folder):
    """Number of chunks with a record; each of them must be whole."""
    records = sorted(folder.glob("chunk_*.json"))
    for path in records:
        record = ChunkRecord.read(path)
        assert record is not None, f"torn record {path}"
        data = path.with_suffix(".safetensors")
        assert file_sha256(data) == record.sha256, f"torn chunk {data}"
        assert load_file(data)["latents"].isfinite().all()
    return len(records)


def test_kill_9_at_random_points_then_again_gives_the_unbroken_film(runner, root, unbroken):
    film, seconds = unbroken
    rng = random.Random(0)
    kills, films, states, job_root = 0, 0, set(), root / "0"
    while kills < NUM_KILLS:
        status = runner.run_and_kill(job_root, rng.uniform(0, 0.6 * seconds))
        if status == signal.SIGKILL:
            kills += 1
        for folder in job_root.glob("toy-*"):
            states.add(committed_chunks(folder))
        for path in job_root.glob("toy-*/film.safetensors"):
            assert path.read_bytes() == film
            films += 1
            job_root = root / str(films)
    assert len(states) >= 4, f"the kills met too few different states: {states}"

    assert runner.run(job_root) == 0
    (path,) = job_root.glob("toy-*/film.safetensors")
    assert path.read_bytes() == film


def test_kill_9_while_the_film_is_joined_leaves_no_partial_film(runner, root, unbroken):
    film, _ = unbroken
    make_toy_film(root / "killed")
    (folder,) = (root / "killed").glob("toy-*")
    path, num_partial = folder / "film.safetensors", 0
    for _ in range(12):
        path.unlink(missing_ok=True)
        pid = runner.ask(f"start {root / 'killed'}")
        while not path.with_name("film.safetensors.tmp").exists() and not path.exists():
            time.sleep(0.0002)
        os.kill(pid, signal.SIGKILL)
        runner.ask("wait")
        num_partial += not path.exists()
        assert not path.exists() or path.read_bytes() == film
        path.with_name("film.safetensors.tmp").unlink(missing_ok=True)
    assert num_partial, "no kill hit the joining itself"
    _, sampled = make_toy_film(root / "killed")
    assert sampled == []
    assert path.read_bytes() == film


def test_the_lock_of_a_killed_process_is_taken_over(runner, root):
    runner.run_and_kill(root, 0.05)
    with open_toy_journal(root):
        pass
