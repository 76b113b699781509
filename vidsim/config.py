"""Typed configuration: frozen dataclasses built once, at the door, from plain data.

Each room keeps its config class beside its code; this file turns mappings (ConfigDict, JSON) into
them and back. Unknown keys are errors with the nearest known one.
"""

import ast
import dataclasses
import importlib.util
import json
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from vidsim.core.errors import bad, nearest

T = typing.TypeVar("T")


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "config") -> T:
    """Builds the dataclass `cls` from nested mappings.

    Raises  BadInput naming the key for unknown keys, missing keys and values of the wrong kind
    """
    if not isinstance(data, Mapping):
        raise bad(where, f"{data!r}", f"expected a mapping for {cls.__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise bad(where, f"unknown key {key!r} in {cls.__name__}", nearest(str(key), fields))
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in data:
            raise bad(where, f"key {name!r} missing in {cls.__name__}", f"type {field.type}")
    hints = typing.get_type_hints(cls)
    built = {k: _convert(hints[k], v, f"{where}.{k}") for k, v in data.items()}
    return cls(**built)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON-able data of a config dataclass (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def override(
    data: Mapping[str, Any], settings: Sequence[str], where: str = "config"
) -> dict[str, Any]:
    """Applies "a.b=value" settings to nested data; values are Python literals or plain words."""
    result = json.loads(json.dumps(data))
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise bad(where, f"setting {setting!r}", "expected name=value")
        *parents, last = path.split(".")
        node = result
        for name in parents:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise bad(where, f"setting {path!r}", f"{name!r} is not a group of settings")
        node[last] = _literal(text)
    return result


def load_experiment(spec: str) -> dict[str, Any]:
    """Runs `get_config(variant)` of an experiment file "path.py[:variant]"; returns plain data.

    Experiment files are Python of the user's own; configs that travel with checkpoints are JSON.
    """
    name, _, variant = spec.partition(":")
    path = pathlib.Path(name)
    if not path.is_file():
        shown = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise bad("--config", f"no file {name}", nearest(path.name, shown) if shown else "")
    if path.suffix == ".json":
        return json.loads(path.read_text())
    loader = importlib.util.spec_from_file_location("vidsim_experiment", path)
    if loader is None or loader.loader is None:
        raise bad("--config", f"{name} is not a Python file", "experiments/NAME.py[:variant]")
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    config = module.get_config(variant)
    plain = config.to_dict() if hasattr(config, "to_dict") else config
    return json.loads(json.dumps(plain))


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Value as the type hint says: nested dataclasses, tuples, optionals and unions, numbers."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_dict(hint, value, where)
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if origin is dict or hint is dict or origin is Mapping:
        if not isinstance(value, Mapping):
            raise bad(where, f"{value!r}", "expected a mapping")
        inner = args[1] if len(args) == 2 else Any
        return {k: _convert(inner, v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool):
        if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
            raise bad(where, f"{value!r} is a {type(value).__name__}", f"expected {hint.__name__}")
        return value
    if origin is typing.Literal and value not in args:
        raise bad(where, f"{value!r}", f"one of {', '.join(map(repr, args))}")
    return value


def _convert_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    errors = []
    for hint in args:
        if hint is type(None):
            continue
        try:
            return _convert(hint, value, where)
        except (ValueError, TypeError) as error:
            errors.append(error)
    raise errors[0]


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise bad(where, f"{value!r}", "expected a list")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if args and len(args) != len(value):
        raise bad(where, f"{len(value)} entries {value!r}", f"expected {len(args)}")
    hints = args or (Any,) * len(value)
    return tuple(
        _convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True))
    )
