"""A real ComfyUI on CPU for tests/nodes: base folder in a temporary place, the pack loaded as ComfyUI loads it.

Needs COMFYUI_PATH. Test modules may `import gloria_pack...` (the pack under its test name) and `import comfy...`;
the fixture `pack` hands out the loaded root module after its `on_load` ran.
"""

import asyncio
import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

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
