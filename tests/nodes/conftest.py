"""A real ComfyUI on CPU for tests/nodes: base folder in a temporary place, the pack loaded as ComfyUI loads it.

Needs COMFYUI_PATH. Test modules may `import gloria_pack...` (the pack under its test name) and `import comfy...`;
the fixture `pack` hands out the loaded root module after its `on_load` ran.
"""

import asyncio
import atexit
import http.client
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
PACK_NAME = "gloria_pack"
MODEL_FOLDERS = (
    "audio_encoders", "clip_vision", "diffusion_models", "gloria", "loras", "text_encoders", "vae",
)  # fmt: skip


def _comfyui_path() -> Path:
    value = os.environ.get("COMFYUI_PATH")
    if not value:
        raise pytest.UsageError(
            "tests/nodes run inside a real ComfyUI: set COMFYUI_PATH to a ComfyUI folder, "
            "or run everything with `python quickstart.py test`."
        )
    path = Path(value).resolve()
    if not (path / "comfy" / "model_base.py").is_file():
        raise pytest.UsageError(f"COMFYUI_PATH={value} is not a ComfyUI folder: there is no comfy/model_base.py in it.")
    return path


def _prepare_comfyui(comfyui: Path) -> Path:
    """Put ComfyUI first on sys.path, on CPU, with every folder it writes to in a temporary base directory."""
    sys.path.insert(0, str(comfyui))
    # First of all, as main.py does: nodes.py puts comfy/ on the path, where utils.py would hide this package.
    import utils  # noqa: F401
    from comfy.cli_args import args

    base = Path(tempfile.mkdtemp(prefix="gloria-tests-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    for name in ("custom_nodes", "input", "output", "temp", "user", *(f"models/{name}" for name in MODEL_FOLDERS)):
        (base / name).mkdir(parents=True)
    args.cpu = True
    args.base_directory = str(base)  # read by folder_paths when it is imported
    import folder_paths

    if Path(folder_paths.base_path) != base:
        raise pytest.UsageError("ComfyUI's folder_paths was imported before the tests could set its base directory.")
    return base


def _import_pack() -> ModuleType:
    """Execute the root `__init__.py` as `nodes.load_custom_node` does, under an importable name."""
    spec = importlib.util.spec_from_file_location(PACK_NAME, REPO / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK_NAME] = module
    spec.loader.exec_module(module)
    return module


BASE_DIRECTORY = _prepare_comfyui(_comfyui_path())
PACK = _import_pack()


@pytest.fixture(scope="session", autouse=True)
def pack() -> ModuleType:
    """The pack's root module after ComfyUI's load sequence: entry point, `on_load`, node list."""

    async def load() -> None:
        extension = await PACK.comfy_entrypoint()
        await extension.on_load()
        await extension.get_node_list()

    asyncio.run(load())
    return PACK


@pytest.fixture(scope="session")
def base_directory() -> Path:
    """ComfyUI's base directory for this run: models/, input/, output/, ..."""
    return BASE_DIRECTORY


@pytest.fixture
def output_directory(base_directory: Path) -> Path:
    """ComfyUI's output folder, emptied first so that no journal of another test is found in it."""
    output = base_directory / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    return output


class Answer(SimpleNamespace):
    """`status`, `headers` and `body` of an HTTP answer."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class PageServer:
    """ComfyUI's own server in a thread, with its middlewares, asked over real connections."""

    def __init__(self, routes: list[Any]) -> None:
        self.port = 0
        self._routes = routes
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request exactly as written: nothing tidies the path or adds a header besides Host and the length."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        is_chunked = "Transfer-Encoding" in headers
        try:
            connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
            if body is not None and not is_chunked:
                connection.putheader("Content-Length", str(len(body)))
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(body, encode_chunked=is_chunked)
            response = connection.getresponse()
            return Answer(status=response.status, headers=response.headers, body=response.read())
        finally:
            connection.close()

    def post(self, path: str, content: Any) -> Answer:
        """A change as our page asks for it."""
        headers = {"Content-Type": "application/json", "X-Gloria-Request": "1", "Origin": self.origin}
        return self.ask("POST", f"/gloria/{path}", json.dumps(content).encode(), **headers)

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(60)

    def stop(self) -> None:
        import server

        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        del server.PromptServer.instance  # the nodes' other tests run without a server

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = self._loop.run_until_complete(self._serve())
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _serve(self) -> Any:
        import server
        from aiohttp import web

        prompt_server = server.PromptServer(self._loop)
        sys.modules[f"{PACK_NAME}.nodes.bridge.routes"].register_routes(self._routes)
        prompt_server.add_routes()
        runner = web.AppRunner(prompt_server.app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._started.set()
        return runner


@pytest.fixture(scope="module")
def page_server(page_routes: list[Any]) -> Iterator[PageServer]:
    """A running server with the routes that the test module's fixture `page_routes` lists, beside ComfyUI's own."""
    server = PageServer(page_routes)
    server.start()
    yield server
    server.stop()
