"""The settings of a run enter, the reference in docs/training.md leaves: every name, value, default and meaning.

    python -m gloria_core.training.config_reference docs/training.md

What it writes stands between two comments of that file; the words are those beside the settings in `config.py`.
"""

import argparse
import ast
import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..durable_files import commit_file
from ..errors import ConfigError
from . import config as settings
from .config import TrainConfig

BEGIN, END = "<!-- settings: written by gloria_core.training.config_reference -->", "<!-- end of settings -->"
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def reference() -> str:
    """Markdown: one table for the run, one for each group of settings."""
    docs = _documentation()
    return "\n".join("\n".join(_section(name, cls, docs)) for name, cls in groups())


def groups() -> Iterator[tuple[str, type]]:
    """The run itself, under the name "", and its groups of settings in the order they stand in the file."""
    yield "", TrainConfig
    for name, hint in get_type_hints(TrainConfig).items():
        cls = _group_of(hint)
        if cls is not None:
            yield name, cls


def replace_reference(text: str) -> str:
    """A document with the present reference between its two comments.

    Raises:
        ConfigError: The comments are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"The file has no two lines {BEGIN!r} and {END!r} to write between.")
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def _section(name: str, cls: type, docs: dict[str, dict[str, str]]) -> Iterator[str]:
    hints, is_list = get_type_hints(cls), get_origin(get_type_hints(TrainConfig).get(name)) is tuple
    yield f"### {f'`{name}`' if name else 'The run'}\n"
    yield f"{'A list, one entry for each stage. ' if is_list else ''}{docs[cls.__name__]['']}\n"
    yield "| setting | values | default | meaning |\n|---|---|---|---|"
    for field in fields(cls):
        group = _group_of(hints[field.name])
        if group is not None:
            anchor = f"[below](#{field.name})"
            yield f"| `{field.name}` | group | {'required' if _is_required(field) else ''} | {anchor} |"
            continue
        meaning = docs[cls.__name__][field.name]
        yield f"| `{field.name}` | {_values(hints[field.name])} | {_default(field)} | {meaning} |"
    yield ""


def _group_of(hint: Any) -> type | None:
    inner = get_args(hint)[0] if get_origin(hint) is tuple else hint
    return inner if is_dataclass(inner) else None  # type: ignore[return-value]


def _is_required(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _default(field: Field) -> str:
    if _is_required(field):
        return "required"
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if isinstance(value, dict):
        return f"`{{{', '.join(f'{key}: {item}' for key, item in value.items())}}}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _values(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join("null" if arg is type(None) else _values(arg) for arg in args)
    if origin is Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if origin is tuple:
        return f"list of {_values(args[0])}" if args[-1] is Ellipsis else f"{len(args)} numbers"
    if origin is dict:
        return "number by label"
    return _WORDS[hint]


def _documentation() -> dict[str, dict[str, str]]:
    """By class, what stands below each field, and under "" the class's own words."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(settings)).body:
        if isinstance(node, ast.ClassDef):
            words = {"": _one_line(ast.get_docstring(node) or "")}
            for statement, following in zip(node.body, node.body[1:], strict=False):
                is_field = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
                if is_field and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                    words[statement.target.id] = _one_line(str(following.value.value))
            found[node.name] = words
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m gloria_core.training.config_reference", description=__doc__.splitlines()[0]
    )
    parser.add_argument("document", type=Path, help="Markdown file to write the reference into")
    path = parser.parse_args(arguments).document
    data = replace_reference(path.read_text(encoding="utf-8")).encode()
    commit_file(path, [data], len(data))
    return 0


if __name__ == "__main__":
    main()
