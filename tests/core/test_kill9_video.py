"""kill -9 while a film is decoded, encoded and joined: the next run ends in the unbroken film, byte for byte.

Run: python -m pytest tests/core/test_kill9_video.py
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import pytest

NUM_KILLS = 20
SCRIPT = Path(__file__).with_name("film_to_kill.py")
NUM_FRAMES = 321
# 1 at the start, 41 groups of latents, 8 segments joined.
NUM_REPORTS = 50


@pytest.fixture
def writer():
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    yield process
    process.stdin.close()
    process.wait(timeout=30)


def run(writer, folder, last_report=0, kill_after=None):
    """Exit code of one attempt, killed by itself at a report or by us after some seconds."""
    writer.stdin.write(f"{folder} {last_report}\n")
    child = int(writer.stdout.readline())
    timer = threading.Timer(kill_after or 1e6, os.kill, (child, signal.SIGKILL))
    timer.daemon = True
    timer.start()
    code = int(writer.stdout.readline())
    timer.cancel()
    return code


def num_frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_film_after_kills_at_random_points_equals_the_unbroken_one(writer, tmp_path):
    rng = random.Random(0)
    (tmp_path / "whole").mkdir()
    started = time.monotonic()
    assert run(writer, tmp_path / "whole") == 0
    seconds = time.monotonic() - started
    expected = (tmp_path / "whole" / "film.mp4").read_bytes()
    assert num_frames(tmp_path / "whole" / "film.mp4") == NUM_FRAMES

    folder = tmp_path / "killed"
    folder.mkdir()
    num_kills = num_finished = 0
    while num_kills < NUM_KILLS or num_finished == 0:
        if num_kills >= NUM_KILLS:
            code = run(writer, folder)
        elif rng.random() < 0.5:
            code = run(writer, folder, last_report=rng.randrange(1, NUM_REPORTS))
        else:
            code = run(writer, folder, kill_after=rng.uniform(0.01, 0.7 * seconds))
        assert code in (0, -signal.SIGKILL)
        film = folder / "film.mp4"
        if code == 0:
            num_finished += 1
            assert film.read_bytes() == expected
            assert [entry.name for entry in folder.iterdir()] == ["film.mp4"]
            film.unlink()
        else:
            num_kills += 1
            # Killed after the rename, the film is whole; before, it is absent.
            assert not film.exists() or film.read_bytes() == expected
            if film.exists():
                film.unlink()
    assert num_kills >= 20


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_kill_while_joining_leaves_no_film_and_the_rerun_decodes_nothing(writer, tmp_path):
    assert run(writer, tmp_path, last_report=NUM_REPORTS - 1) == -signal.SIGKILL
    assert not (tmp_path / "film.mp4").exists()
    (parts,) = tmp_path.glob("*.parts")
    assert (parts / "film.tmp.mp4").exists()
    # 1 report at the start and 8 of joined segments: a 10th would come from decoding.
    assert run(writer, tmp_path, last_report=10) == 0
    assert num_frames(tmp_path / "film.mp4") == NUM_FRAMES


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_segments_before_the_kill_are_kept_and_playable(writer, tmp_path):
    # In the middle of the fourth segment: 1 report at the start, then 6, 5, 5 groups.
    assert run(writer, tmp_path, last_report=20) == -signal.SIGKILL
    (parts,) = tmp_path.glob("*.parts")
    complete = sorted(parts.glob("seg_*.json"))
    assert [num_frames(path.with_suffix(".mp4")) for path in complete] == [41, 40, 40]
    assert not (tmp_path / "film.mp4").exists()
