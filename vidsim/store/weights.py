"""Weights for use: one safetensors file and one config.json, known by a hash of the contents."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vidsim.core.errors import bad
from vidsim.core.trees import flatten, unflatten

FORMAT = "vidsim-model/1"
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model as read from its folder; `params` is a nested dict of numpy arrays."""

    config: dict[str, Any]
    params: dict[str, Any]
    extra: dict[str, Any]
    hash: str


def save_model(
    directory: str | pathlib.Path,
    config: Mapping[str, Any],
    params: Any,
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Writes config and weights into a new folder in one move; returns the identity hash.

    config   what builds the model (JSON)
    params   nested dict of arrays
    extra    further facts that belong to the model, e.g. its latent statistics (JSON)
    Raises   BadInput when the folder holds another model
    """
    target = pathlib.Path(directory)
    arrays = {path: np.asarray(x, order="C") for path, x in flatten(params).items()}
    identity = model_hash(config, arrays, extra or {})
    if target.exists() and any(target.iterdir()):
        if _identity(target) == identity:
            return identity
        raise bad(f"{target}", "holds other files already", "an empty or new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    save_file(arrays, draft / _WEIGHTS)
    body = {"format": FORMAT, "config": dict(config), "extra": dict(extra or {}), "hash": identity}
    (draft / _CONFIG).write_text(json.dumps(body, indent=1))
    if target.exists():
        target.rmdir()
    draft.rename(target)
    return identity


def load_model(directory: str | pathlib.Path) -> SavedModel:
    """Reads a folder that `save_model` wrote. Raises BadInput when it is absent or damaged."""
    folder = pathlib.Path(directory)
    try:
        body = json.loads((folder / _CONFIG).read_bytes())
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise bad(f"{folder / _CONFIG}", "is not of a vidsim model", f"format {FORMAT}")
        arrays = load_file(folder / _WEIGHTS)
    except FileNotFoundError as error:
        name = pathlib.Path(str(error.filename or _WEIGHTS)).name
        raise bad(f"{folder}", f"no {name}", "a folder with model.safetensors") from None
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise bad(f"{folder}", f"cannot be read ({error})", change="export it again") from None
    found = model_hash(body["config"], arrays, body["extra"])
    if found != body["hash"]:
        raise bad(
            f"{folder}", f"contents have hash {found[:12]}", f"expected {body['hash'][:12]}",
            "the files are damaged or were edited; export the model again",
        )  # fmt: skip
    return SavedModel(body["config"], unflatten(arrays), body["extra"], found)


def model_hash(
    config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], extra: Mapping[str, Any]
) -> str:
    """sha256 over config, extra, and each array's path, dtype, shape and bytes, by sorted path."""
    h = hashlib.sha256(json.dumps([FORMAT, config, extra], sort_keys=True).encode())
    for path in sorted(arrays):
        x = np.asarray(arrays[path], order="C")
        h.update(json.dumps([path, x.dtype.name, list(x.shape)]).encode())
        h.update(x.reshape(-1).view(np.uint8).data)
    return h.hexdigest()


def _identity(folder: pathlib.Path) -> str | None:
    try:
        return load_model(folder).hash
    except ValueError:
        return None
