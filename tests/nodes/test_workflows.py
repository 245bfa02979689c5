"""The shipped workflows as files: sound links, values that fit the nodes' schemas, models with addresses, notes.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_workflows.py
`tests/workflows/api/` holds what the editor queues for each (its browser test compares); ComfyUI itself judges it here.
"""

import asyncio
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import comfyui_version
import execution
import pytest
from comfy_api.latest import io
from PIL import Image

import nodes as comfyui_nodes

REPO = Path(__file__).resolve().parents[2]
FILES = {path.stem: path for path in sorted((REPO / "workflows").glob("*.json"))}
TWINS = REPO / "tests" / "workflows" / "api"
PROJECT = dict(re.findall(r'^(name|version) = "(.+)"$', (REPO / "pyproject.toml").read_text(), re.MULTILINE))
EXTRAS = (
    "audio", "audio_encoder", "hunyuan", "mediapipe", "model_advanced", "preview_any", "string", "train", "video",
)  # fmt: skip
# What ComfyUI 0.16 has not yet, and the nodes of the workflows that come from there.
NEWER_EXTRAS, NEWER_NODES = {"mediapipe"}, {"LoadMediaPipeFaceLandmarker"}
MODEL_FOLDERS = {
    "base": "diffusion_models", "unet_name": "diffusion_models", "gloria_weights": "gloria", "vae_name": "vae",
    "audio_encoder_name": "audio_encoders", "lora_name": "loras",
    "character": "gloria_characters", "ckpt_name": "checkpoints", "model_name": "detection",
}  # fmt: skip
PLACEHOLDER = "your_gloria_weights_for_wan2.1_i2v_14B.safetensors"
# In the pack's own folder, where ComfyUI must find them.
DEMO_MODEL = "gloria_demo_"
MAX_THUMBNAIL_BYTES = 60_000

every_workflow = pytest.mark.parametrize("name", FILES)


def _graph(name: str) -> dict[str, Any]:
    return json.loads(FILES[name].read_text())


def _twin(name: str) -> dict[str, Any]:
    return json.loads((TWINS / f"{name}.json").read_text())


def _is_ours(node: dict[str, Any]) -> bool:
    return node["type"].startswith("Gloria")


@pytest.fixture(scope="module")
def schemas(pack: ModuleType) -> dict[str, io.Schema]:
    return {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in sys.modules["gloria_pack.nodes"].NODES}


@pytest.fixture(scope="module")
def registered(pack: ModuleType) -> Iterator[dict[str, Any]]:
    """ComfyUI's node table with the stock nodes that the workflows use, and ours."""
    table = comfyui_nodes.NODE_CLASS_MAPPINGS
    before = dict(table)

    async def load() -> None:
        folder = Path(comfyui_nodes.__file__).parent / "comfy_extras"
        for name in EXTRAS:
            if name in NEWER_EXTRAS and not (folder / f"nodes_{name}.py").is_file():
                continue
            assert await comfyui_nodes.load_custom_node(str(folder / f"nodes_{name}.py"), module_parent="comfy_extras")

    asyncio.run(load())
    table |= {node.GET_SCHEMA().node_id: node for node in sys.modules["gloria_pack.nodes"].NODES}
    yield table
    table.clear()
    table.update(before)


@pytest.fixture
def files_in_place(base_directory: Path) -> Iterator[Path]:
    """An empty file for every model that a workflow names, and the example input: ComfyUI only looks for the names."""
    made = []
    for source in (REPO / "assets").glob("*.*"):
        target = base_directory / "input" / source.name
        if not target.exists():
            shutil.copy2(source, target)
            made.append(target)
    for folder in ("my_character", "doll_footage"):
        footage = base_directory / "input" / folder / "talk.mp4"
        footage.parent.mkdir(exist_ok=True)
        footage.touch()
        made.append(footage)
    for name in FILES:
        for node in _twin(name).values():
            for key, folder in _model_inputs(node):
                target = base_directory / "models" / folder / node["inputs"][key]
                if not (node["inputs"][key] == "none" or target.name.startswith(DEMO_MODEL) or target.exists()):
                    target.parent.mkdir(exist_ok=True)
                    target.touch()
                    made.append(target)
    yield base_directory
    for path in made:
        path.unlink(missing_ok=True)


def _model_inputs(node: dict[str, Any]) -> list[tuple[str, str]]:
    folders = MODEL_FOLDERS | {"clip_name": "clip_vision" if "Vision" in node["class_type"] else "text_encoders"}
    return [(key, folders[key]) for key in node["inputs"] if key in folders]


def _skip_without_stock_nodes(name: str, registered: dict[str, Any]) -> None:
    """Newer stock nodes are not in the oldest ComfyUI; all others and ours must be."""
    missing = {node["class_type"] for node in _twin(name).values()} - set(registered)
    assert missing <= NEWER_NODES
    if missing:
        pytest.skip(f"ComfyUI {comfyui_version.__version__} has no {', '.join(sorted(missing))}")


def _validate(prompt: dict[str, Any]) -> tuple[bool, str]:
    valid, error, _, node_errors = asyncio.run(execution.validate_prompt("test", prompt, None))
    return valid, json.dumps([error, node_errors], default=str)


def test_the_workflows_are_there():
    assert set(FILES) == {
        "character_pack",
        "cpu_talking_video",
        "cpu_train_lora",
        "footage_to_anchors",
        "footage_to_dataset",
        "long_talking_video",
        "long_video_timeline",
        "long_video_viewpoints_expressions",
        "one_chunk_ksampler",
        "stream_decode_any_wan_latent",
        "train_character_lora",
        "train_compare_before_after",
        "train_make_dataset",
        "train_resume",
    }
    assert {path.stem for path in TWINS.glob("*.json")} == set(FILES)


def test_every_node_of_the_pack_is_shown_in_some_workflow(schemas: dict[str, io.Schema]):
    shown = {node["type"] for name in FILES for node in _graph(name)["nodes"] if _is_ours(node)}
    assert shown == set(schemas)


@every_workflow
def test_links_and_sockets_agree(name: str):
    graph = _graph(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    links = {link[0]: link for link in graph["links"]}
    assert len(nodes) == len(graph["nodes"])
    assert len(links) == len(graph["links"])
    assert graph["last_node_id"] >= max(nodes)
    assert graph["last_link_id"] >= max(links)
    for link_id, source, source_slot, target, target_slot, kind in links.values():
        assert link_id in nodes[source]["outputs"][source_slot]["links"]
        assert nodes[source]["outputs"][source_slot]["type"] == kind
        assert nodes[target]["inputs"][target_slot]["link"] == link_id
        accepted = nodes[target]["inputs"][target_slot]["type"].split(",")
        assert kind in accepted or accepted == ["*"]
    used = [socket["link"] for node in nodes.values() for socket in node["inputs"] if socket["link"] is not None]
    assert sorted(used) == sorted(links)


@every_workflow
def test_saved_nodes_have_the_sockets_and_widgets_of_their_schema(name: str, schemas: dict[str, io.Schema]):
    for node in filter(_is_ours, _graph(name)["nodes"]):
        schema = schemas[node["type"]]
        widgets = [entry for entry in schema.inputs if isinstance(entry, io.WidgetInput)]
        num_controls = sum(bool(getattr(entry, "control_after_generate", False)) for entry in widgets)
        assert len(node.get("widgets_values") or []) == len(widgets) + num_controls, node["type"]
        assert {socket["name"] for socket in node["inputs"]} == {entry.id for entry in schema.inputs}
        assert [socket["name"] for socket in node["inputs"] if "widget" in socket] == [entry.id for entry in widgets]
        assert [socket["type"] for socket in node["outputs"]] == [entry.get_io_type() for entry in schema.outputs]


@every_workflow
def test_nodes_say_which_pack_they_come_from(name: str):
    for node in _graph(name)["nodes"]:
        properties = node["properties"]
        if node["type"] == "MarkdownNote":
            continue
        assert properties["Node name for S&R"] == node["type"]
        if _is_ours(node):
            assert properties["cnr_id"] == PROJECT["name"]
            assert properties["ver"] == PROJECT["version"]
        else:
            assert properties["cnr_id"] == "comfy-core"


@every_workflow
def test_every_public_model_has_an_address_that_the_editor_can_download(name: str):
    for node_id, node in _twin(name).items():
        saved = next(entry for entry in _graph(name)["nodes"] if str(entry["id"]) == node_id)
        models = {model["name"]: model for model in saved["properties"].get("models", [])}
        wanted = {node["inputs"][key]: folder for key, folder in _model_inputs(node)}
        public = {file: folder for file, folder in wanted.items() if not _has_no_address(file)}
        assert {file: model["directory"] for file, model in models.items()} == public
        for file, model in models.items():
            address = rf"https://huggingface\.co/[\w.-]+/[\w.-]+/resolve/main/[\w./-]*{re.escape(file)}"
            assert re.fullmatch(address, model["url"])
            assert model["url"] in (REPO / "README.md").read_text(), "the README lists every file too"


def _has_no_address(file: str) -> bool:
    return file in ("none", PLACEHOLDER) or Path(file).name.startswith((DEMO_MODEL, "my_character_"))


@every_workflow
def test_each_stage_is_a_titled_group_with_a_note(name: str):
    graph = _graph(name)
    notes = [node for node in graph["nodes"] if node["type"] == "MarkdownNote"]
    assert [group["title"][:2] for group in graph["groups"]] == [f"{i} " for i in range(1, len(graph["groups"]) + 1)]
    for group in graph["groups"]:
        left, top, width, height = group["bounding"]
        inside = [n for n in notes if left <= n["pos"][0] < left + width and top <= n["pos"][1] < top + height]
        assert len(inside) == 1, group["title"]
        assert len(inside[0]["widgets_values"][0]) > 60, group["title"]


@every_workflow
def test_resume_is_not_spoiled_by_a_changing_seed(name: str):
    for node in _graph(name)["nodes"]:
        if node["type"] in ("GloriaSampleLongVideo", "KSampler"):
            assert "fixed" in node["widgets_values"]


@every_workflow
def test_thumbnail_is_a_small_picture(name: str):
    path = FILES[name].with_suffix(".jpg")
    assert path.stat().st_size < MAX_THUMBNAIL_BYTES
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        assert picture.width >= 400


@every_workflow
def test_twin_has_the_nodes_that_are_switched_on(name: str):
    active = [node for node in _graph(name)["nodes"] if node["mode"] == 0 and node["type"] != "MarkdownNote"]
    twin = _twin(name)
    assert {str(node["id"]): node["type"] for node in active} == {key: node["class_type"] for key, node in twin.items()}


@every_workflow
def test_comfyui_accepts_the_workflow_when_the_files_are_there(
    name: str, registered: dict[str, Any], files_in_place: Path
):
    _skip_without_stock_nodes(name, registered)
    valid, errors = _validate(_twin(name))
    assert valid, errors


@every_workflow
def test_twin_names_only_inputs_that_exist(name: str, registered: dict[str, Any]):
    newer_than_the_oldest_comfyui = {"bit_depth", "preview_mode"}
    only_in_the_page = {"video-preview"}
    _skip_without_stock_nodes(name, registered)
    for node in _twin(name).values():
        known = registered[node["class_type"]].INPUT_TYPES()
        names = {key for kind in ("required", "optional") for key in known.get(kind, {})}
        assert set(node["inputs"]) - names - newer_than_the_oldest_comfyui - only_in_the_page == set()


def test_missing_gloria_weights_are_reported_by_name_before_anything_runs(
    registered: dict[str, Any], files_in_place: Path
):
    (files_in_place / "models" / "gloria" / PLACEHOLDER).unlink()
    valid, errors = _validate(_twin("long_talking_video"))
    assert not valid
    assert f"gloria_weights: '{PLACEHOLDER}' not in" in errors
