"""A trained model as one folder that is small enough to ship.

    config.json         what builds the model, and where it comes from ("extra")
    model.safetensors   the denoiser and its text encoder
    vae/                the same two files of the VAE
    README.md           the model card

Weights are rounded to bfloat16 and computed with in float32. `weights_id` names the rounded numbers
alone, so scores of one export hold for another one of the same weights.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from vidsim.core.errors import bad
from vidsim.core.trees import flatten
from vidsim.generate.assets import find
from vidsim.generate.model import VAE_FOLDER, Model, load, vae_folder
from vidsim.store.weights import SavedModel, load_model, model_hash, save_model

CARD = "README.md"
# What of a run's configuration an exported model keeps: what builds it and how it was trained.
# Paths of the machine that trained it stay there.
KEPT = ("task", "denoising", "plan", "longest", "run", "optim", "captions")


@dataclass(frozen=True)
class Rounded:
    """A model in bfloat16, not yet on disk: arguments of `save_model` for itself and its VAE."""

    model: Model
    config: dict[str, Any]
    params: Any
    vae_config: dict[str, Any]
    vae_params: Any
    vae_extra: dict[str, Any]
    weights_id: str


def rounded(
    ckpt: str | os.PathLike[str],
    step: int | None = None,
    ema: bool = True,
    decoder: str | os.PathLike[str] = "",
) -> Rounded:
    """The model of a work directory (or of an exported folder) with weights in bfloat16.

    decoder  an autoencoder of the same encoder whose decoder the model gets; "": it keeps its own
    Raises   BadInput as `load` does, and for a decoder of other latents
    """
    model = load(ckpt, step, ema)
    vae = load_model(find(ckpt) / VAE_FOLDER)
    if decoder:
        vae = _same_latents(vae, load_model(vae_folder(decoder)), os.fspath(decoder))
    params, vae_params = to_bfloat16(model.params), to_bfloat16(vae.params)
    vae_hash = model_hash(vae.config, flatten(vae_params), vae.extra)
    config = {key: model.config[key] for key in KEPT if key in model.config}
    name = model_hash({}, flatten(params) | {"vae": np.frombuffer(vae_hash.encode(), np.uint8)}, {})
    return Rounded(model, config | {"vae_hash": vae_hash}, params, vae.config, vae_params,
                   vae.extra, name[:16])  # fmt: skip


def _same_latents(own: SavedModel, other: SavedModel, name: str) -> SavedModel:
    """The other autoencoder. Raises BadInput where its encoder or its statistics are not one's own,
    but for rounding to bfloat16."""
    ours, theirs = (flatten(to_bfloat16(vae.params["encoder"])) for vae in (own, other))
    alike = ours.keys() == theirs.keys() and all(
        np.array_equal(value, theirs[path]) for path, value in ours.items()
    )
    if not alike or own.extra != other.extra:
        raise bad("--decoder", f"{name} makes other latents", "an autoencoder trained with "
                  "autoencoding.learn=decoder from the model's own")  # fmt: skip
    return other


def to_bfloat16(params: Any) -> Any:
    """Host arrays; floats rounded to the nearest bfloat16, everything else as it is."""

    def one(x: Any) -> np.ndarray:
        x = np.asarray(jax.device_get(x))
        floats = jax.numpy.issubdtype(x.dtype, np.floating)
        return x.astype(ml_dtypes.bfloat16) if floats else x

    return jax.tree.map(one, params)


def num_bytes(model: Rounded) -> int:
    """Bytes of all weights on disk, without their names."""
    arrays = [*flatten(model.params).values(), *flatten(model.vae_params).values()]
    return sum(x.nbytes for x in arrays)


def export(
    model: Rounded,
    out: str | os.PathLike[str],
    facts: Mapping[str, Any] | None = None,
    card: str = "",
    most_mb: float | None = None,
) -> Path:
    """Writes the folder in one move.

    facts    further facts for config.json, JSON-able (training, scores, licence)
    card     text of README.md; none is written when empty
    most_mb  million bytes of weights at most; None: any number
    Raises   BadInput when the weights are larger, or the folder holds anything
    """
    target, size = Path(out), num_bytes(model)
    if most_mb is not None and size > most_mb * 1e6:
        raise bad("--max-mb", f"{most_mb:g}", f"the weights take {size / 1e6:.1f} MB in bfloat16",
                  "train a smaller model")  # fmt: skip
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise bad("--out", f"{target} holds other files", "a new or empty folder")
    source = model.model.facts
    extra = {
        "step": source["step"], "weights": source["weights"], "weights_id": model.weights_id,
        "rounded_from": source["weights_id"], **(facts or {}),
    }  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    save_model(draft, model.config, model.params, extra)
    save_model(draft / VAE_FOLDER, model.vae_config, model.vae_params, model.vae_extra)
    if card:
        (draft / CARD).write_text(card)
    if target.exists():
        target.rmdir()
    draft.rename(target)
    return target
