"""The weights that a run starts from, where these are not drawn: another run's."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vidsim.config import to_dict
from vidsim.core.errors import bad
from vidsim.core.trees import as_float32, flatten, unflatten
from vidsim.generate.model import Model, load, load_vae, vae_folder
from vidsim.models.dit import DiT
from vidsim.models.grow import continues, grown_network, grown_patches, grown_vae, same_latents
from vidsim.models.text import ByteEncoderConfig, with_words
from vidsim.models.vae_linear import BlockMoments
from vidsim.parallel.processes import agree
from vidsim.store.weights import load_model
from vidsim.tasks.autoencoding import Autoencoding, AutoencodingConfig
from vidsim.tasks.denoising import DenoisingConfig

# What of a VaeConfig may differ from that of the autoencoder a run starts from.
OF_DECODER = frozenset({"decoder_dim", "decoder_res_blocks", "dtype", "conv"})
# Of a DiTConfig: what may be more than in the one it starts from.
LARGER = ("layers", "mlp_width", "self_condition")


def first_weights(
    start: str, workdir: str | os.PathLike[str], make: Callable[[], Any]
) -> Callable[[], Any] | None:
    """What `train` calls where there is no checkpoint: None when nothing is to be taken over.

    For a new work directory they are made here, so that a misfit is refused before anything is
    compiled or written.
    """
    if not start:
        return None
    given = [] if (Path(workdir) / "config.json").exists() else [make()]
    return lambda: given.pop() if given else make()


def vae_start(
    start: str, cfg: AutoencodingConfig, seed: int, moments: BlockMoments | None = None
) -> Any:
    """Weights of a run that starts from another autoencoder, as host arrays. What is new in the
    decoder is drawn from the seed; a new last convolution beside a linear map is zero, so that the
    decoder starts at what it had. More latent channels: see `models.grow`.

    start    the other autoencoder: its folder, a work directory, a shipped model
    moments  of the data's blocks, for more latent channels
    Raises   BadInput when the encoder is of another shape, or channels are to be added without
             a principal start
    """
    source, wanted = load_model(vae_folder(start)), to_dict(cfg.vae)
    few, many = source.config["latent_channels"], cfg.vae.latent_channels
    grows = many > few
    free = {"latent_channels"} if grows else OF_DECODER
    for field in sorted(wanted.keys() - free):
        if source.config[field] != wanted[field]:
            raise bad(f"config.autoencoding.vae.{field}", f"{wanted[field]}",
                      f"{source.config[field]}, as of start {start!r}")  # fmt: skip
    if grows and moments is None:
        raise bad("config.autoencoding.vae.latent_channels", f"{many}", f"{few}, as of start",
                  "further ones need autoencoding.start=principal")  # fmt: skip
    agree({"start": source.hash})
    task = Autoencoding(cfg)
    fresh, old = task.init(jax.random.key(seed)), as_float32(source.params)
    if grows and moments is not None:
        print(f"vae: starts from {start}, {many - few} new channels", flush=True)
        return fresh | {"vae": grown_vae(moments, old, fresh["vae"], cfg.motion)}
    flat = {path: np.asarray(value) for path, value in flatten(fresh["vae"]).items()}
    if cfg.vae.linear:
        flat |= {path: np.zeros_like(value) for path, value in flat.items()
                 if path.startswith("decoder/conv_out/")}  # fmt: skip
    kept = {path: np.asarray(value) for path, value in flatten(old).items()
            if path in flat and flat[path].shape == value.shape}  # fmt: skip
    print(f"vae: starts from {start}, {len(flat) - len(kept)} of {len(flat)} arrays are new",
          flush=True)  # fmt: skip
    flat |= kept
    return fresh | {"vae": unflatten(flat)}


def denoiser_start(start: str, cfg: DenoisingConfig, vae: Path, vae_hash: str, seed: int) -> Any:
    """The averaged weights of the model at `start` for a resolved run, as host arrays. Words that
    only the run's vocabulary has are fresh; words that only the model's has are gone. Latents that
    begin with the model's own and have further channels, and a network with more of LARGER: see
    `models.grow`. With another `channel_weight` the network sees its patches as before.

    start          a model, or several with commas between, of which one came from the other: then
                   the mean of their weights (arXiv:2109.01903), of a word's over those that know it
    cfg            of the run
    vae, vae_hash  folder and identity of the autoencoder of its latents
    seed           of new words and blocks
    Raises BadInput when one is another network, or of other latents
    """
    names = start.split(",")
    models = [load(name) for name in names]
    taken = [_taken(name, model, cfg, vae, vae_hash, seed)
             for name, model in zip(names, models, strict=True)]  # fmt: skip
    mean = jax.tree.map(lambda *several: np.mean(several, 0, several[0].dtype), *taken)
    words = () if cfg.text is None else cfg.text.words
    for k, word in enumerate(words):
        tables = [params["text"]["bytes"]["table"] for params, model in
                  zip(taken, models, strict=True) if word in _words(model)]  # fmt: skip
        row = len(mean["text"]["bytes"]["table"]) - len(words) + k
        if tables:
            mean["text"]["bytes"]["table"][row] = np.mean([table[row] for table in tables], 0)
    return mean


def _words(model: Model) -> tuple[str, ...]:
    text = model.task.cfg.text
    return () if text is None else text.words


def _taken(
    start: str, model: Model, cfg: DenoisingConfig, vae: Path, vae_hash: str, seed: int
) -> Any:
    """The weights of one model at `start`, as `denoiser_start`."""
    here, there, where = cfg, model.task.cfg, f"config.start {start!r}"
    grows = _continues(model, cfg, vae, vae_hash)
    if grows:
        dit = dataclasses.replace(there.dit, patch_width=here.dit.patch_width)
        there = dataclasses.replace(there, latent=here.latent, dit=dit)
    if model.vae.hash != vae_hash and not grows or there.latent != here.latent:
        raise bad(where, f"is of latents of VAE {model.vae.hash[:12]}",
                  f"the cache's VAE {vae_hash[:12]}, with its statistics")  # fmt: skip
    if _unworded(there.text) != _unworded(here.text):
        raise bad(where, "has another text encoder", f"{here.text}, as the run")
    larger = {f: max(getattr(here.dit, f), getattr(there.dit, f)) for f in LARGER}
    if field := here.dit.differs(dataclasses.replace(there.dit, **larger)):
        more = " or more" if field in LARGER[:2] else ""
        raise bad(f"config.denoising.dit.{field}", f"{getattr(here.dit, field)}",
                  f"{getattr(there.dit, field)}{more}, as of start {start!r}")  # fmt: skip
    agree({"start": model.facts["weights_id"]})
    params, new = jax.tree.map(np.asarray, model.params), 0
    if grows or here.channel_weight != there.channel_weight and len(here.latent.gain) > 1:
        weights = there.channel_weight, here.channel_weight
        old = model.task.cfg.latent
        params["dit"] = grown_patches(params["dit"], old, here.latent, weights)
    if here.dit.differs(there.dit):
        fresh = DiT(here.dit).init(jax.random.key(seed))
        params["dit"] = grown_network(params["dit"], fresh)
    if here.text is not None and there.text is not None and here.text.words != there.text.words:
        params["text"] = with_words(params["text"], there.text, here.text.words, seed)
        new = len(set(here.text.words) - set(there.text.words))
    print(f"denoiser: starts from {start}, step {model.facts['step']}, {new} new words, "
          f"{here.dit.layers - there.dit.layers} new layers", flush=True)  # fmt: skip
    return params


def _continues(model: Model, cfg: DenoisingConfig, vae: Path, vae_hash: str) -> bool:
    """Whether the run's latents are of another autoencoder than the model's and begin with its."""
    if model.vae.hash == vae_hash:
        return False
    if not continues(model.task.cfg.latent, cfg.latent):
        return False
    wider = load_vae(vae)
    return same_latents(model.vae.vae, model.vae.params, wider.vae, wider.params)


def _unworded(text: ByteEncoderConfig | None) -> ByteEncoderConfig | None:
    """A text encoder but for its vocabulary."""
    return text and dataclasses.replace(text, words=())
