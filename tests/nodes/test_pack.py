"""The pack as ComfyUI, the registry and a saved workflow see it.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_pack.py
Saved workflows hold widget values by position: after a release `contract.json` may only grow at the end of a list.
After such an addition: `UPDATE_CONTRACT=1 python -m pytest tests/nodes/test_pack.py`.
"""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from comfy_api.latest import io

import gloria_core
import gloria_pack
import gloria_pack.gloria_core
import nodes as comfyui_nodes

REPO = Path(__file__).resolve().parents[2]
CONTRACT = Path(__file__).with_name("contract.json")
SHIPPED = [REPO / "__init__.py", *(REPO / "nodes").rglob("*.py"), *(REPO / "gloria_core").rglob("*.py")]


@pytest.fixture(scope="module")
def schemas(pack: ModuleType) -> dict[str, io.Schema]:
    return {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in sys.modules["gloria_pack.nodes"].NODES}


def test_comfyuis_own_nodes_module_is_not_hidden_by_ours():
    assert hasattr(comfyui_nodes, "NODE_CLASS_MAPPINGS")


def test_v1_mappings_are_absent_because_they_would_switch_the_entry_point_off():
    assert not hasattr(gloria_pack, "NODE_CLASS_MAPPINGS")


def test_core_in_the_pack_and_core_alone_are_two_modules():
    assert gloria_core is not gloria_pack.gloria_core
    assert gloria_core.__file__ == gloria_pack.gloria_core.__file__


def test_every_node_can_be_found_and_understood(schemas: dict[str, io.Schema]):
    for node_id, schema in schemas.items():
        assert re.fullmatch(r"Gloria[A-Z]\w+", node_id)
        assert schema.category.split("/")[0] == "Gloria", node_id
        assert len(schema.description) >= 20, node_id
        assert schema.search_aliases, node_id
        assert schema.display_name, node_id


def test_every_socket_has_a_tooltip(schemas: dict[str, io.Schema]):
    for node_id, schema in schemas.items():
        missing = [socket.id for socket in (*schema.inputs, *schema.outputs) if not socket.tooltip]
        assert not missing, node_id


def test_every_number_has_limits(schemas: dict[str, io.Schema]):
    for node_id, schema in schemas.items():
        for entry in schema.inputs:
            if isinstance(entry, (io.Int.Input, io.Float.Input)):
                assert entry.min is not None, (node_id, entry.id)
                assert entry.max is not None, (node_id, entry.id)


def test_nodes_show_few_widgets_before_advanced_ones(schemas: dict[str, io.Schema]):
    for node_id, schema in schemas.items():
        plain = [entry for entry in schema.inputs if isinstance(entry, io.WidgetInput) and not entry.advanced]
        assert len(plain) <= 12, node_id


def test_saved_workflows_keep_their_meaning(schemas: dict[str, io.Schema]):
    current = {
        node_id: {
            "inputs": [[entry.id, entry.get_io_type()] for entry in schema.inputs],
            "outputs": [output.get_io_type() for output in schema.outputs],
        }
        for node_id, schema in schemas.items()
    }
    if os.environ.get("UPDATE_CONTRACT"):
        CONTRACT.write_text(json.dumps(current, indent=1) + "\n")
    for node_id, promised in json.loads(CONTRACT.read_text()).items():
        assert node_id in current
        for side in ("inputs", "outputs"):
            assert current[node_id][side][: len(promised[side])] == promised[side], node_id


def test_version_is_the_newest_in_the_changelog():
    version = re.search(r'^version = "(.+)"$', (REPO / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    assert re.search(r"^## (\S+)", (REPO / "CHANGELOG.md").read_text(), re.MULTILINE).group(1) == version


def test_requirements_pin_nothing_that_comfyui_brings():
    lines = [line for line in (REPO / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", line) for line in lines)
    assert not {"torch", "torchvision", "torchaudio", "numpy", "transformers", "opencv-python"} & set(lines)


# Training runs in a process of its own: our own module, with ComfyUI's own Python. Pictures go into a page and to a
# judge as text.
ALLOWED_MODULES = {
    "training_process.py": {"subprocess"}, "contact_sheet.py": {"base64"}, "endpoint.py": {"base64"},
    "write_pack.py": {"base64"},
}  # fmt: skip


def test_shipped_code_runs_no_programs_and_unpickles_nothing():
    forbidden_modules = {"subprocess", "pickle", "urllib.request", "requests", "importlib", "base64", "ctypes"}
    for path in SHIPPED:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            allowed = ALLOWED_MODULES.get(path.name, set())
            used = {*names, *(name.split(".")[0] for name in names)}
            assert not used & (forbidden_modules - allowed), path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "__import__", "compile"}, path
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in {"os.system", "torch.load", "sys.path", "base64.b64decode"}, path


def test_the_one_program_that_is_started_is_our_trainer():
    tree = ast.parse((REPO / "nodes" / "bridge" / "training_process.py").read_text())
    uses = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    starts = {use for use in uses if use.startswith("subprocess.")}
    flags = {"subprocess.CREATE_NEW_PROCESS_GROUP", "subprocess.CREATE_NO_WINDOW"}
    assert starts == {"subprocess.Popen", "subprocess.DEVNULL", "subprocess.STDOUT"} | flags
    (call,) = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "subprocess.Popen"]
    command = ast.unparse(call.args[0])
    assert command.startswith("[sys.executable, '-m', 'gloria_core.train', ")
    assert not any(keyword.arg == "shell" for keyword in call.keywords)


def test_core_never_imports_comfyui():
    comfyui = {"comfy", "comfy_api", "comfy_extras", "nodes", "server", "folder_paths", "execution", "latent_preview"}
    for path in (REPO / "gloria_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & comfyui, path
            elif isinstance(node, ast.ImportFrom):
                assert node.level > 0 or node.module.split(".")[0] not in comfyui, path
                assert node.level <= len(path.relative_to(REPO / "gloria_core").parts), path


def test_folder_imports_where_there_is_no_comfyui():
    code = "import importlib.util, sys; sys.path.insert(0, sys.argv[1]); __import__(sys.argv[2])"
    command = [sys.executable, "-I", "-c", code, str(REPO.parent), REPO.name]
    assert subprocess.run(command, check=False).returncode == 0
