"""docs/training.md is true and runs as written. Run: python -m pytest tests/core/training/test_docs.py"""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml

sys.path.append(str(Path(__file__).resolve().parents[3]))

from gloria_core import toy_lab, train
from gloria_core.data import build
from gloria_core.data.manifest import Manifest, ManifestAnchor, ManifestClip, ManifestSource
from gloria_core.errors import ConfigError, DatasetError
from gloria_core.strict import parse
from gloria_core.training.config import config_from_dict
from gloria_core.training.config_file import read_config
from gloria_core.training.config_reference import BEGIN, groups, replace_reference
from gloria_core.training.presets import merge_settings, preset, preset_names
from gloria_core.training.run_folder import read_metrics, read_status, read_validation

ROOT = Path(__file__).resolve().parents[3]
DOC = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
PROSE = DOC.partition(BEGIN)[0]
COMMANDS = {"gloria_core.toy_lab": toy_lab.main, "gloria_core.data.build": build.main, "gloria_core.train": train.main}
OWN = {"name": "a", "base": "b", "output": "o", "data": {"cache": "c"}, "stages": [{"name": "s", "steps": 1}]}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOC, re.DOTALL)


def commands(text):
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line]


def table(first_cell, text=DOC):
    """Rows of the tables whose header starts with a cell, as lists of cells."""
    rows, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            inside = False
        elif inside and set(cells[0]) != {"-"}:
            rows.append(cells)
        elif cells[0] == first_cell:
            inside = True
    return rows


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_reference_is_the_present_one():
    assert replace_reference(DOC) == DOC, "run: python -m gloria_core.training.config_reference docs/training.md"


def test_every_setting_is_documented_with_its_default_and_none_that_is_not_there():
    sections = re.split(r"^### ", DOC.partition(BEGIN)[2], flags=re.MULTILINE)[1:]
    documented = {section.splitlines()[0].strip("`"): table("setting", section) for section in sections}
    existing = {name or "The run": cls for name, cls in groups()}
    assert documented.keys() == existing.keys()
    for name, cls in existing.items():
        rows = {names(row[0])[0]: row for row in documented[name]}
        assert list(rows) == [field.name for field in fields(cls)]
        for field in fields(cls):
            default, meaning = rows[field.name][2:4]
            assert meaning
            if field.default is MISSING and field.default_factory is MISSING:
                assert default == "required"
            elif rows[field.name][1] != "group":
                value = field.default if field.default_factory is MISSING else field.default_factory()
                written = yaml.safe_load(names(default)[0])
                # YAML reads 1e-05 as text; the strict reader takes it for a number all the same.
                written = float(written) if isinstance(value, float) else written
                assert written == (list(value) if isinstance(value, tuple) else value)


def test_presets_are_those_that_exist():
    rows = table("preset")
    assert sorted(names(row[0])[0] for row in rows) == sorted(preset_names())
    for row in rows:
        windows = [int(number) for number in re.findall(r"\d+", row[4])]
        assert windows == preset(names(row[0])[0])["data"]["frames"]


def test_every_yaml_example_is_read_strictly(tmp_path):
    examples = blocks("yaml")
    assert len(examples) >= 2
    for text in examples:
        if "base:" in text:
            (tmp_path / "run.yaml").write_text(text)
            assert read_config(tmp_path / "run.yaml").stages
        else:
            config_from_dict(merge_settings(OWN, yaml.safe_load(text)))


def test_every_setting_in_the_text_is_read_strictly():
    snippets = re.findall(r"`(\w+: \{[^}`]*\})`", PROSE)
    assert len(snippets) >= 5
    for snippet in snippets:
        values = yaml.safe_load(snippet.replace("...", "1"))
        (group,) = values
        config_from_dict(merge_settings(OWN, values))
        with pytest.raises(ConfigError):
            config_from_dict(merge_settings(OWN, {group: {"no_such_setting": 1}}))


# --- dataset.json ----------------------------------------------------------------------------------------------------


def test_the_example_of_dataset_json_is_read_strictly():
    (text,) = blocks("json")
    content = json.loads(text)
    manifest = parse(Manifest, content, "example", DatasetError)
    assert {anchor.kind for anchor in manifest.sources[0].anchors} == {"global", "viewpoint", "expression"}
    with pytest.raises(DatasetError, match="unknown"):
        parse(Manifest, {**content, "sourcez": []}, "example", DatasetError)


def test_every_field_of_dataset_json_is_documented():
    classes = {"dataset": Manifest, "source": ManifestSource, "clip": ManifestClip, "anchor": ManifestAnchor}
    rows = table("field")
    for of, cls in classes.items():
        documented = {names(row[0])[0]: row[3] for row in rows if row[1] == of}
        assert list(documented) == [field.name for field in fields(cls)]
        for field in fields(cls):
            assert (documented[field.name] == "required") == (field.default is MISSING)
    assert {row[1] for row in rows} == classes.keys()


# --- messages and links ----------------------------------------------------------------------------------------------


def messages():
    """Every text of the code, with a sign where values stand."""
    for path in [*(ROOT / "gloria_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                yield "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_are_quoted_as_the_code_says_them():
    known = list(messages())
    quoted = [row[0] for row in table("message")]
    assert len(quoted) > 20
    for message in quoted:
        assert any(message in text for text in known), message


def test_links_lead_somewhere():
    headings = re.findall(r"^#+ (.*)", DOC, re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]
    assert len(set(slugs)) == len(slugs)
    for target in re.findall(r"\]\(([^)]+)\)", DOC):
        file, _, anchor = target.partition("#")
        assert not file or (ROOT / "docs" / file).exists(), target
        assert file or anchor in slugs, target


# --- commands --------------------------------------------------------------------------------------------------------


def run(words):
    """A command of the document, as written; Python modules in this process, the launcher in its own."""
    if words[:2] == ["python", "-m"]:
        return COMMANDS[words[2]](words[3:])
    assert words[:2] == ["accelerate", "launch"], words
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *words[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(launcher, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-4000:]
    return 0


def test_the_way_of_a_lab_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (toy,) = [text for text in blocks("bash") if "toy_lab" in text]
    for words in commands(toy):
        assert not run(words), words
    stages = [line["stage"] for line in read_metrics(tmp_path / "toy_lab" / "stages")[0]]
    assert list(dict.fromkeys(stages)) == [stage["name"] for stage in preset("paper_stages")["stages"]]
    assert read_status(tmp_path / "toy_lab" / "stages")["results"].keys() == {"merged"}
    lora_run = tmp_path / "toy_lab" / "run"
    assert read_status(lora_run)["results"].keys() == {"lora", "gloria"}
    assert list((lora_run / "samples").glob("*.mp4"))
    for file, lines in (("metrics", read_metrics(lora_run)[0]), ("validation", read_validation(lora_run)[0])):
        documented = {name for row in table("line of") if row[0] == file for name in names(row[1])}
        assert {key for line in lines for key in line} == documented


def test_the_other_commands_are_understood(tmp_path, monkeypatch, caplog):
    """Without the models they end with a message of ours about the first file that is missing, not about an option."""
    from accelerate.commands.launch import launch_command_parser

    monkeypatch.chdir(tmp_path)
    others = [words for text in blocks("bash") if "toy_lab" not in text for words in commands(text)]
    assert len(others) >= 4
    for words in others:
        if words[:2] == ["accelerate", "launch"]:
            options = launch_command_parser().parse_args(words[2:])
            assert options.module
            words = ["python", "-m", options.training_script, *options.training_script_args]
        if words[0] != "pip":
            caplog.clear()
            assert run(words) == 1
            assert re.search(r"There is no folder footage|run\.yaml does not exist", caplog.text)
