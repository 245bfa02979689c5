"""What all browser tests need: Chromium, Node.js with playwright-core, and the quickstart that starts ComfyUI."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import av
import pytest

REPO = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def quickstart() -> ModuleType:
    """quickstart.py as a module."""
    spec = importlib.util.spec_from_file_location("gloria_quickstart", REPO / "quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make_base(quickstart: ModuleType) -> Callable[[Path, dict[str, float]], Path]:
    """Makes ComfyUI's base directory as the quickstart does, with the first seconds of recordings under their names."""

    def make(folder: Path, seconds: dict[str, float]) -> Path:
        base = quickstart.prepare_base(folder)
        for name, length in seconds.items():
            (base / "input" / name).unlink()
            _shorten(REPO / "assets" / name, base / "input" / name, length)
        return base

    return make


def _shorten(source: Path, target: Path, seconds: float) -> None:
    """The first seconds of an Ogg file, copied packet by packet."""
    with av.open(str(source)) as long, av.open(str(target), "w", format="ogg") as short:
        stream = short.add_stream_from_template(long.streams.audio[0])
        for packet in long.demux(audio=0):
            if packet.dts is None or packet.pts * packet.time_base >= seconds:
                break
            packet.stream = stream
            short.mux(packet)


@pytest.fixture(scope="session")
def comfyui_server(quickstart: ModuleType) -> Callable[[Path], AbstractContextManager]:
    """Starts ComfyUI on a CPU in a base directory; FRONTEND=<unpacked comfyui-frontend-package>/static is its page."""
    frontend = ["--front-end-root", os.environ["FRONTEND"]] if os.environ.get("FRONTEND") else []

    @contextlib.contextmanager
    def start(base: Path) -> Iterator[object]:
        comfyui, port = Path(os.environ["COMFYUI_PATH"]), quickstart.free_port()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CUDA_VISIBLE_DEVICES", "")  # the quickstart then starts ComfyUI with --cpu
            with quickstart.running_server(sys.executable, comfyui, base, port, *frontend) as server:
                server.wait_until_ready()
                yield server

    return start


@pytest.fixture(scope="session")
def chromium() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.fail("The browser tests need Chromium: `apt-get install chromium`, or set CHROMIUM to its path.")
    return found


@pytest.fixture(scope="session")
def node() -> str:
    """Node.js with playwright-core beside the driver script."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            pytest.fail(f"The browser tests need {program}: `apt-get install nodejs npm`.")
    if not (HERE / "node_modules" / "playwright-core").is_dir():
        command = ["npm", "ci", "--prefix", str(HERE), "--no-audit", "--no-fund"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.fail(f"npm could not fetch playwright-core: {result.stderr}")
    return shutil.which("node")
