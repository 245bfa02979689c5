"""A YAML file enters, the settings of a run leave, and back."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from ..durable_files import commit_file
from ..errors import ConfigError
from .config import TrainConfig, config_from_dict
from .presets import merge_settings, preset

PRESET_KEY = "preset"


def read_config(path: Path) -> TrainConfig:
    """Settings of a YAML file; its relative paths become absolute.

    `preset: NAME` in the file takes the values of that preset, on top of which go the file's own.

    Raises:
        ConfigError: No such file, no YAML, an unknown preset, or settings that are wrong, each named.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"The configuration {path} does not exist.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not a readable YAML file: {error}") from error
    if isinstance(content, Mapping) and PRESET_KEY in content:
        own = {key: value for key, value in content.items() if key != PRESET_KEY}
        content = merge_settings(preset(content[PRESET_KEY]), own)
    return _with_absolute_paths(config_from_dict(content, path.name), path.resolve().parent)


def write_config(path: Path, config: TrainConfig) -> None:
    """The settings as YAML, every value spelled out."""
    text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True).encode()
    commit_file(path, [text], len(text))


def _with_absolute_paths(config: TrainConfig, folder: Path) -> TrainConfig:
    content = config.to_dict()

    def absolute(value: str | None) -> str | None:
        return None if value is None else str(folder / Path(value).expanduser())

    for owner, key in (
        (content, "base"), (content, "gloria"), (content, "output"), (content["data"], "cache"),
        (content["validation"], "vae"),
    ):  # fmt: skip
        owner[key] = absolute(owner[key])
    return config_from_dict(content)
