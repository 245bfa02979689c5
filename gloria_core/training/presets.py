"""The name of a preset and a user's own values enter, the settings of a run leave.

A preset is a YAML file in `gloria_core/configs/` with some of the fields of `TrainConfig`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def preset_names() -> tuple[str, ...]:
    """Names of the presets that ship with the pack."""
    return tuple(sorted(path.stem for path in CONFIGS.glob("*.yaml")))


def preset(name: str) -> dict[str, Any]:
    """The fields that a preset sets.

    Raises:
        ConfigError: No preset of this name.
    """
    if name not in preset_names():
        raise ConfigError(f"There is no preset {name!r}. Known are: {', '.join(preset_names())}.")
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))


def merge_settings(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `changes` on top, group by group; lists (`stages`) are replaced as a whole."""
    merged = dict(settings)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge_settings(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def share_out_steps(stages: list[dict[str, Any]], total: int) -> list[dict[str, Any]]:
    """The same stages with `total` steps in all, each with its share, at least one."""
    if total < len(stages):
        raise ConfigError(f"{total} steps for {len(stages)} stages: give at least one step to each.")
    before = sum(stage["steps"] for stage in stages)
    ends, done = [], 0
    for idx, stage in enumerate(stages):
        done += stage["steps"]
        ends.append(max(idx + 1, min(round(total * done / before), total - (len(stages) - 1 - idx))))
    return [{**stage, "steps": end - start} for stage, start, end in zip(stages, [0, *ends[:-1]], ends, strict=True)]
