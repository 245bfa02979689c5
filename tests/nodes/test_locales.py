"""Texts of the page in every language: each node, each input, each output, each setting, each problem of a picture.

Run: COMFYUI_PATH=<ComfyUI> python -m pytest tests/nodes/test_locales.py
After a change of a node: `UPDATE_LOCALES=1 python -m pytest tests/nodes/test_locales.py` writes the English texts
(locales/en/nodeDefs.json) and names what locales/zh/nodeDefs.json lacks; the Chinese is written by hand.
"""

import json
import os
import re
import sys
from pathlib import Path
from string import Formatter
from types import ModuleType

import pytest
from app.custom_node_manager import CustomNodeManager
from comfy_api.latest import io

from gloria_pack.gloria_core.conditioning.board import KIND_OF_SLOT
from gloria_pack.gloria_core.conditioning.check_anchor_image import TEXTS

REPO = Path(__file__).resolve().parents[2]
LOCALES = REPO / "locales"
LANGUAGES = ("en", "zh")
SCRIPTS = sorted((REPO / "web").rglob("*.js"))
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def read(language: str, name: str) -> dict:
    return json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))


def leaves(tree: dict, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Path -> text of everything in nested JSON."""
    found = {}
    for key, value in tree.items():
        found |= leaves(value, (*path, key)) if isinstance(value, dict) else {(*path, key): value}
    return found


def definition(schema: io.Schema) -> dict:
    """A node's texts as ComfyUI's page looks them up: dots in names become underscores, outputs are numbered."""

    def texts(name: str, tooltip: str) -> dict:
        return {"name": name, "tooltip": tooltip}

    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {e.id.replace(".", "_"): texts(e.display_name or e.id, e.tooltip) for e in schema.inputs},
        "outputs": {str(idx): texts(e.display_name or e.io_type, e.tooltip) for idx, e in enumerate(schema.outputs)},
    }


@pytest.fixture(scope="module")
def definitions(pack: ModuleType) -> dict[str, dict]:
    nodes = sys.modules["gloria_pack.nodes"].NODES
    return {node.GET_SCHEMA().node_id: definition(node.GET_SCHEMA()) for node in nodes}


def test_english_says_what_the_nodes_say(definitions: dict[str, dict]):
    if os.environ.get("UPDATE_LOCALES"):
        text = json.dumps(definitions, indent=2, ensure_ascii=False) + "\n"
        (LOCALES / "en" / "nodeDefs.json").write_text(text, encoding="utf-8")
    assert read("en", "nodeDefs") == definitions


def test_chinese_has_every_text_of_every_node_and_no_other(definitions: dict[str, dict]):
    wanted, given = leaves(definitions), leaves(read("zh", "nodeDefs"))
    assert sorted(wanted.keys() - given.keys()) == []
    assert sorted(given.keys() - wanted.keys()) == []


def test_every_chinese_description_is_chinese():
    texts = leaves(read("zh", "nodeDefs"))
    told = {path: text for path, text in texts.items() if path[-1] in ("description", "tooltip", "display_name")}
    assert [path for path, text in told.items() if not CHINESE.search(text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ["nodeDefs", "settings"])
def test_texts_hold_no_signs_that_the_page_reads_as_its_own(language: str, name: str):
    # vue-i18n: gaps, linked messages, plurals. Older pages stop drawing a node with a broken gap in its texts.
    assert [path for path, text in leaves(read(language, name)).items() if set("{}@|") & set(text)] == []


@pytest.mark.parametrize("name", ["main", "settings"])
def test_both_languages_have_the_same_texts_with_the_same_gaps(name: str):
    def gaps(language: str) -> dict:
        texts = leaves(read(language, name))
        return {path: {gap for _, gap, _, _ in Formatter().parse(text) if gap} for path, text in texts.items()}

    assert gaps("en") == gaps("zh")
    assert [path for path, text in leaves(read("zh", name)).items() if not CHINESE.search(text)] == []


def test_the_board_has_texts_for_every_slot_and_every_problem():
    board = read("en", "main")["gloria"]["board"]
    assert board["problems"] == TEXTS
    for part in ("slots", "hints"):
        assert board[part].keys() == KIND_OF_SLOT.keys()


def test_scripts_name_only_texts_that_exist():
    known = {".".join(path) for path in leaves(read("en", "main")["gloria"])}
    for script in SCRIPTS:
        for path in re.findall(r"\b(?:text|complain)\('([a-z]+\.[\w.]+)'", script.read_text(encoding="utf-8")):
            assert path in known, (script.name, path)


def test_every_setting_is_under_our_heading_and_translated():
    ids = set()
    for script in SCRIPTS:
        source = script.read_text(encoding="utf-8")
        constants = dict(re.findall(r"const (\w+) = '(Gloria\.[\w.]+)'", source))
        for block in re.findall(r"settings: \[(.*?)\n  \],", source, re.DOTALL):
            named = [constants.get(name, name.strip("'")) for name in re.findall(r"\bid: ('[^']+'|\w+)", block)]
            assert len(re.findall(r"category: \['Gloria', ", block)) == len(named), script.name
            ids |= set(named)
    assert ids
    for language in LANGUAGES:
        assert read(language, "settings").keys() == {name.replace(".", "_") for name in ids}


def test_comfyui_reads_the_files(base_directory: Path):
    link = base_directory / "custom_nodes" / "gloria"
    if not link.exists():
        link.symlink_to(REPO, target_is_directory=True)
    try:
        read_by_comfyui = CustomNodeManager().build_translations()
    finally:
        link.unlink()
    for language in LANGUAGES:
        assert read_by_comfyui[language]["nodeDefs"] == read(language, "nodeDefs")
        assert read_by_comfyui[language]["settings"] == read(language, "settings")
        assert read_by_comfyui[language]["gloria"] == read(language, "main")["gloria"]


def test_every_node_has_a_help_page_in_both_languages(definitions: dict[str, dict]):
    docs = REPO / "web" / "docs"
    for node_id, texts in definitions.items():
        for page in (docs / f"{node_id}.md", docs / node_id / "zh.md"):
            assert page.is_file(), page.relative_to(REPO)
            content = page.read_text(encoding="utf-8")
            shown = {name.split(".")[0] for name in (*texts["inputs"], *(e["name"] for e in texts["outputs"].values()))}
            assert [name for name in shown if name not in content] == [], page.relative_to(REPO)
    assert {page.parent.name for page in docs.glob("*/*.md")} == definitions.keys()
