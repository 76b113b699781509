"""Weights for use: one safetensors file and one config.json, known by a hash of the contents."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save_file

from vidsim.core.errors import bad
from vidsim.core.trees import flatten, unflatten

FORMAT = "vidsim-model/1"
WEIGHTS = "model.safetensors"
_CONFIG = "config.json"
# Number formats by their names in the file; safetensors' own numpy reader knows no bfloat16.
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
           "I64": np.int64, "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_}  # fmt: skip


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
    save_file(arrays, draft / WEIGHTS)
    (draft / WEIGHTS).chmod(0o644)  # safetensors' own mode hides the file from other users
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
        arrays = _read_arrays(folder / WEIGHTS)
    except FileNotFoundError as error:
        name = pathlib.Path(str(error.filename or WEIGHTS)).name
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


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Arrays by path, of the format that they have on disk."""
    arrays = {}
    for name, entry in deserialize(path.read_bytes()):
        if entry["dtype"] not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise bad(f"{path}", f"{name} is {entry['dtype']}", known, "export it again")
        arrays[name] = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def _identity(folder: pathlib.Path) -> str | None:
    try:
        return load_model(folder).hash
    except ValueError:
        return None
