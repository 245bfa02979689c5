"""JSON or YAML enters, frozen dataclasses leave; an unknown, missing or wrongly typed field is an error naming it."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def parse(cls: type[T], content: Any, where: str, error: type[ValueError]) -> T:
    """`content` as an instance of the dataclass `cls`.

    Args:
        where: file and field, put before every message.
        error: class of the error raised for what the user can mend.
    """
    if not isinstance(content, Mapping):
        raise error(f"{where}: expected fields of {cls.__name__}, got {_shown(content)}.")
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    unknown = [str(name) for name in content if name not in known]
    if unknown:
        raise error(f"{where}: unknown field(s) {', '.join(unknown)}. Known are: {', '.join(known)}.")
    missing = [
        name
        for name, field in known.items()
        if name not in content and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise error(f"{where}: missing field(s) {', '.join(missing)}.")
    hints = get_type_hints(cls)
    values = {name: _value(hints[name], value, f"{where}: {name}", error) for name, value in content.items()}
    try:
        return cls(**values)
    except error as problem:
        raise error(f"{where}: {problem}") from problem


def _value(hint: Any, value: Any, where: str, error: type[ValueError]) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return parse(hint, value, where, error)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = (arg for arg in args if arg is not type(None))
        return _value(inner, value, where, error)
    if origin is Literal:
        if value in args and not isinstance(value, bool):
            return value
        raise error(f"{where} is {_shown(value)}, expected one of {', '.join(map(str, args))}.")
    if origin is tuple:
        return _tuple(args, value, where, error)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise error(f"{where} is {_shown(value)}, expected names with values.")
        return {
            _value(args[0], key, f"{where} key", error): _value(args[1], item, f"{where}.{key}", error)
            for key, item in value.items()
        }
    return _scalar(hint, value, where, error)


def _tuple(args: tuple[Any, ...], value: Any, where: str, error: type[ValueError]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise error(f"{where} is {_shown(value)}, expected a list.")
    if args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise error(f"{where} has {len(value)} values, expected {len(args)}.")
        hints = args
    else:
        hints = (args[0],) * len(value)
    return tuple(
        _value(hint, item, f"{where}[{idx}]", error) for idx, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _scalar(hint: Any, value: Any, where: str, error: type[ValueError]) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-5 as text
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise error(f"{where} is {_shown(value)}, expected {hint.__name__}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
