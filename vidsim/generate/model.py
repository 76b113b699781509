"""A trained model for use: the denoiser and the VAE of its latents, from a work directory.

A denoiser's work directory holds

    config.json    the resolved configuration: "task": "denoising", "denoising" (DenoisingConfig),
                   "plan" (PlanConfig: the rows it was trained with)
    checkpoints/   of which the weight average is used
    vae/           the VAE that made its latents, as `store.weights.save_model` writes it

an exported model's folder (`generate/export.py`) holds model.safetensors in place of checkpoints/,
and a VAE's "task": "autoencoding", "autoencoding" (AutoencodingConfig) and checkpoints/.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vidsim.config import from_dict
from vidsim.core.errors import bad
from vidsim.core.host_random import stable_hash
from vidsim.core.trees import as_float32, count, flatten
from vidsim.data.packing import RowLimits
from vidsim.data.plan import PlanConfig
from vidsim.data.tokenizer import Tokenizer
from vidsim.generate.assets import find
from vidsim.generate.pack import TokenGrid
from vidsim.models.vae import Vae, VaeConfig
from vidsim.store.checkpoints import CheckpointStore
from vidsim.store.weights import WEIGHTS, load_model, model_hash
from vidsim.store.workdir import read_config
from vidsim.tasks.autoencoding import Autoencoding, AutoencodingConfig
from vidsim.tasks.denoising import Denoising, DenoisingConfig

VAE_FOLDER = "vae"


@dataclass(frozen=True)
class VaeModel:
    """A VAE with its weights; `hash` is its identity, `facts` say where it comes from."""

    vae: Vae
    params: Any
    hash: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """A denoiser with everything that sampling needs.

    task, params  the denoising task and its weights
    vae           of the latents it was trained on
    limits        the longest rows it was trained with
    facts         checkpoint, step, which weights, number of parameters, configuration hash
    config        the whole config.json
    """

    task: Denoising
    params: Any
    vae: VaeModel
    limits: RowLimits
    facts: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def grid(self) -> TokenGrid:
        """How pixels map to tokens."""
        cfg = self.vae.vae.cfg
        return TokenGrid(cfg.time_stride, cfg.space_stride, self.task.cfg.latent.patch)

    def tokenizer(self, max_tokens: int) -> Tokenizer:
        """Of its captions, for texts of at most so many tokens."""
        text = self.task.cfg.text
        return Tokenizer(max_tokens, text.words if text else ())

    def for_rows(self, tokens: int) -> "Model":
        """The model as it runs on rows of so many tokens: beyond those of training, its blocks in a
        loop. Unrolled ones are quicker to start and keep each other's results alive.
        """
        if tokens <= self.limits.tokens:
            return self
        looped = dataclasses.replace(self.task.cfg.dit, loop="scan")
        return dataclasses.replace(
            self, task=Denoising(dataclasses.replace(self.task.cfg, dit=looped))
        )

    @property
    def patch_width(self) -> int:
        """Numbers in a patch, P."""
        return int(np.prod(self.task.cfg.latent.patch)) * self.vae.vae.cfg.latent_channels


def load(ckpt: str | os.PathLike[str], step: int | None = None, ema: bool = True) -> Model:
    """Reads a denoiser: a work directory, an exported folder, or a shipped model by its name.

    step    of the checkpoint; the newest whole one by default
    ema     the weight average, or else the weights themselves
    Raises  BadInput when the folder is of something else, the checkpoint of another architecture
            or the VAE of other latents
    """
    folder = find(ckpt)
    if (folder / WEIGHTS).is_file():
        return _load_exported(os.fspath(ckpt), folder, step, ema)
    config = read_config(folder)
    task, limits, vae = _parts(folder, config)
    params, facts = _restore(folder, task, step, ema)
    return Model(task, params, vae, limits, facts, config)


def _load_exported(name: str, folder: Path, step: int | None, ema: bool) -> Model:
    """A folder that `generate.export.export` wrote. It holds one set of weights."""
    saved = load_model(folder)
    task, limits, vae = _parts(folder, saved.config)
    if step not in (None, saved.extra["step"]):
        raise bad(name, f"holds step {saved.extra['step']}", f"step {step} was asked for")
    if not ema:
        raise bad(name, f"holds one set of weights ({saved.extra['weights']})", "no --raw")
    params = as_float32(saved.params)
    _check_tree(f"{folder}", params, jax.eval_shape(task.init, jax.random.key(0)))
    facts = {
        "checkpoint": name, "step": saved.extra["step"], "weights": saved.extra["weights"],
        "parameters": count(params), "weights_id": saved.extra["weights_id"],
    }  # fmt: skip
    return Model(task, params, vae, limits, facts, saved.config)


def _parts(folder: Path, config: Mapping[str, Any]) -> tuple[Denoising, RowLimits, VaeModel]:
    """What a denoiser's configuration says, and the VAE beside it."""
    _check_task(folder, config, "denoising")
    task = Denoising(from_dict(DenoisingConfig, config["denoising"], f"{folder}: denoising"))
    if task.cfg.text is None:
        raise bad(f"{folder}", "captions were encoded by a frozen text encoder",
                  "a denoiser with its own byte encoder")  # fmt: skip
    plan = from_dict(PlanConfig, config["plan"], f"{folder}: plan")
    vae = load_vae(folder / VAE_FOLDER)
    _check_latents(folder, task, vae, config)
    return task, plan.limits, vae


def vae_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of an autoencoder's weights: itself, or vae/ in it; or of an asset by its name."""
    folder = find(path)
    return folder / VAE_FOLDER if (folder / VAE_FOLDER).is_dir() else folder


def load_vae(path: str | os.PathLike[str], step: int | None = None, ema: bool = True) -> VaeModel:
    """Reads a VAE from a folder that has one in vae/, from an exported VAE, or from the checkpoints
    of a VAE's work directory. Raises BadInput when there is none.
    """
    folder = vae_folder(path)
    if (folder / WEIGHTS).exists():
        saved = load_model(folder)
        vae = Vae(from_dict(VaeConfig, saved.config, f"{folder}: config"))
        _check_tree(f"{folder}", saved.params, jax.eval_shape(vae.init, jax.random.key(0)))
        params = as_float32(saved.params)
        facts = {"vae": str(folder), "vae weights": saved.hash[:12]}
        return VaeModel(vae, params, saved.hash, facts)
    config = read_config(folder)
    _check_task(folder, config, "autoencoding")
    cfg = from_dict(AutoencodingConfig, config["autoencoding"], f"{folder}: autoencoding")
    vae = Vae(cfg.vae)
    params, facts = _restore(folder, Autoencoding(cfg), step, ema)
    arrays = {name: np.asarray(x) for name, x in flatten(params["vae"]).items()}
    return VaeModel(vae, params["vae"], model_hash(config["autoencoding"], arrays, {}), facts)


def _restore(folder: Path, task: Any, step: int | None, ema: bool) -> tuple[Any, dict[str, Any]]:
    """Weights of a checkpoint and the facts that tell which they are."""
    item = "ema" if ema else "params"
    store = CheckpointStore(folder / "checkpoints")
    found = store.load([item], step)
    for line in found.passed_over:
        print(f"{folder}: passed over a damaged checkpoint, {line}", flush=True)
    params = found.items[item]
    _check_tree(f"checkpoint {folder}", params, jax.eval_shape(task.init, jax.random.key(0)))
    return params, {
        "checkpoint": str(folder),
        "step": found.step,
        "weights": "average" if ema else "last",
        "parameters": count(params),
        "weights_id": _weights_id(store.manifest(found.step).arrays, item),
    }


def _weights_id(arrays: Mapping[str, Mapping[str, Any]], item: str) -> str:
    """What tells these weights from any others: a hash of their digests in the manifest."""
    own = sorted((p, e["digest"]) for p, e in arrays.items() if p.split("/")[0] == item)
    return f"{stable_hash(*(part for entry in own for part in entry)):016x}"


def _check_task(folder: Path, config: Mapping[str, Any], wanted: str) -> None:
    missing = [key for key in ("task", wanted) if key not in config]
    if config.get("task") != wanted or missing:
        found = repr(config.get("task")) if "task" in config else "no task"
        raise bad(f"{folder}", f"config.json is of {found}", f"a work directory of {wanted}")


def _check_latents(folder: Path, task: Denoising, vae: VaeModel, config: Mapping[str, Any]) -> None:
    """The VAE must be the one whose latents were trained on."""
    hash_then = config.get("vae_hash")
    if hash_then not in (None, vae.hash):
        raise bad(f"{folder / VAE_FOLDER}", f"is VAE {vae.hash[:12]}",
                  f"trained on latents of {str(hash_then)[:12]}")  # fmt: skip
    width = int(np.prod(task.cfg.latent.patch)) * vae.vae.cfg.latent_channels
    if task.cfg.dit.patch_width != width:
        raise bad(f"{folder / VAE_FOLDER}", f"makes patches of {width} numbers",
                  f"the denoiser takes {task.cfg.dit.patch_width}")  # fmt: skip


def _check_tree(where: str, found: Any, wanted: Any) -> None:
    """Raises BadInput naming the first weight that the architecture has otherwise."""
    ours = {path: tuple(x.shape) for path, x in flatten(found).items()}
    theirs = {path: tuple(x.shape) for path, x in flatten(wanted).items()}
    for path in sorted(ours.keys() | theirs.keys()):
        if ours.get(path) != theirs.get(path):
            raise bad(where, f"weight {path} is {ours.get(path, 'absent')}",
                      f"its config.json says {theirs.get(path, 'absent')}",
                      "the checkpoint is of another architecture")  # fmt: skip
