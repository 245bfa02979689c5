"""The text of a settings widget enters, plain values by name leave."""

from typing import Any

import yaml

from ...gloria_core.errors import ConfigError


def yaml_values(text: str, example: str) -> dict[str, Any]:
    """What an advanced YAML widget holds; nothing for an empty one.

    Raises:
        ConfigError: Not YAML, or no names with values.
    """
    try:
        values = yaml.safe_load(text) if text.strip() else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"settings is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"settings is {text.strip()[:60]!r}, expected lines like '{example}'.")
    return values
