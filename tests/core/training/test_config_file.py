"""Files of settings. Run: python -m pytest tests/core/training/test_config_file.py"""

import sys
from pathlib import Path

import pytest
import yaml

sys.path.append(str(Path(__file__).resolve().parents[3]))

from gloria_core.errors import ConfigError
from gloria_core.training.config import config_from_dict
from gloria_core.training.config_file import read_config
from gloria_core.training.presets import preset, preset_names

OWN = {"name": "anna", "base": "b.safetensors", "output": "run", "data": {"cache": "cache"}}


def write(folder, **settings):
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize("name", preset_names())
def test_a_file_takes_a_preset_and_its_own_values_on_top(tmp_path, name):
    config = read_config(write(tmp_path, preset=name, **OWN, optimizer={"lr": 0.5}))
    expected = preset(name)
    assert config.optimizer.lr == 0.5
    assert config.optimizer.weight_decay == expected["optimizer"]["weight_decay"]
    assert list(config.data.frames) == expected["data"]["frames"]
    assert config.data.cache == str(tmp_path / "cache")
    assert [stage.steps for stage in config.stages] == [stage["steps"] for stage in expected["stages"]]


def test_a_files_own_stages_replace_those_of_the_preset(tmp_path):
    config = read_config(write(tmp_path, preset="paper_stages", **OWN, stages=[{"name": "one", "steps": 3}]))
    assert [(stage.name, stage.steps) for stage in config.stages] == [("one", 3)]


def test_a_whole_file_needs_no_preset(tmp_path):
    whole = config_from_dict({**OWN, "stages": [{"name": "one", "steps": 3}]}).to_dict()
    assert read_config(write(tmp_path, **whole)).stages == config_from_dict(whole).stages


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "lora_8gb"}, "no preset 'lora_8gb'. Known are: debug_cpu"),
        ({"preset": ["lora_5b"]}, "no preset"),
        ({"preset": "lora_5b", "optimizer": {"lrr": 1}}, r"run.yaml: optimizer: unknown field\(s\) lrr. Known"),
        ({"preset": "lora_5b", "stepz": 1}, r"run.yaml: unknown field\(s\) stepz"),
        ({}, r"run.yaml: missing field\(s\) stages"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        read_config(write(tmp_path, **OWN, **settings))


def test_a_missing_file_and_one_that_is_no_yaml_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        read_config(tmp_path / "nowhere.yaml")
    path = tmp_path / "run.yaml"
    for text in ("{", "a: [", "\x00"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"run\.yaml is not a readable YAML file"):
            read_config(path)
    path.write_text("- a list")
    with pytest.raises(ConfigError, match="expected fields of TrainConfig"):
        read_config(path)
    with pytest.raises(ConfigError, match="not a readable YAML file"):
        read_config(tmp_path)
