"""Seconds that ComfyUI spends on loading the pack, measured after ComfyUI itself is imported.

Run inside the environment of `python quickstart.py`:
    COMFYUI_PATH=<ComfyUI> python benchmarks/import_time.py
"""

import asyncio
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def load_pack() -> float:
    """What ComfyUI does with a custom node folder: import, entry point, on_load, node list and schemas."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = True
    import comfy_api.latest  # noqa: F401

    import nodes  # noqa: F401 - ComfyUI's own, which imports nearly all of ComfyUI

    started = time.perf_counter()
    spec = importlib.util.spec_from_file_location("gloria_pack", REPO / "__init__.py")
    pack = importlib.util.module_from_spec(spec)
    sys.modules["gloria_pack"] = pack
    spec.loader.exec_module(pack)

    async def load() -> None:
        extension = await pack.comfy_entrypoint()
        await extension.on_load()
        for node in await extension.get_node_list():
            node.GET_SCHEMA()

    asyncio.run(load())
    return time.perf_counter() - started


def main() -> None:
    command = [sys.executable, __file__, "--once"]
    runs = [
        float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        for _ in range(5)
    ]
    print(f"median {statistics.median(runs):.3f} s of {[round(run, 3) for run in runs]}")


if __name__ == "__main__":
    if "--once" in sys.argv:
        print(load_pack())
    else:
        main()
