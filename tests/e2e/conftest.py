"""The README's command, run once for all tests here, and the base directory it leaves behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def _files(folder: Path) -> set[tuple[str, int, int]]:
    return {
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="session")
def comfyui() -> Path:
    return Path(os.environ["COMFYUI_PATH"])


@pytest.fixture(scope="session")
def quickstart_run(comfyui: Path) -> Callable[[Path], dict]:
    """Runs `python quickstart.py` and returns the JSON of its last line."""

    def run(folder: Path) -> dict:
        command = [sys.executable, str(REPO / "quickstart.py"), "--folder", str(folder), "--comfyui", str(comfyui)]
        result = subprocess.run(
            [*command, "--env-python", sys.executable], capture_output=True, text=True, timeout=580, check=False
        )
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
        return json.loads(result.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, comfyui: Path, quickstart_run: Callable[[Path], dict]) -> dict:
    """What the main job reported, where it worked, and what it changed in the ComfyUI folder."""
    folder = tmp_path_factory.mktemp("quickstart")
    before = _files(comfyui)
    report = quickstart_run(folder)
    return {**report, "folder": folder, "changed": before ^ _files(comfyui)}
