"""The denoiser written in torch as its users would write it: the thing to compare a step with.

Functional over tensors made from our weights, so both compute the same numbers; torch's own layers,
scaled dot-product attention and autocast. It is used by `vidsim bench step` and its test only, and
torch is imported when it is called (extra: parity).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vidsim.core.trees import flatten
from vidsim.models.dit_config import DiTConfig
from vidsim.nn.rope import axis_widths


def torch_weights(params: Mapping[str, Any], cfg: DiTConfig) -> dict[str, Any]:
    """Leaf tensors by path; matrices as torch holds them ([out, in]); blocks by number."""
    import torch

    weights = {}
    for path, array in flatten(dict(params)).items():
        whole = np.asarray(array, np.float32)
        layers = enumerate(whole) if path.startswith("blocks/") else [("", whole)]
        for layer, one in layers:
            name = path.replace("blocks/", f"blocks/{layer}/")
            one = one.T if path.endswith("/w") else one
            weights[name] = torch.from_numpy(np.ascontiguousarray(one)).requires_grad_()
    return weights


def torch_batch(batch: Mapping[str, np.ndarray], cfg: DiTConfig) -> dict[str, Any]:
    """What the forward pass needs: rotary angles, and masks where a row holds several clips."""
    import torch

    patch, text = (torch.from_numpy(batch[k]) for k in ("patch_segment", "text_segment"))
    angles = []
    for axis, width in enumerate(axis_widths(cfg.head_width)):
        rates = cfg.theta ** (-np.arange(0, width, 2) / width)
        angles.append(batch["position"][:, :, axis, None] * rates[None, None])
    angle = torch.from_numpy(np.concatenate(angles, -1).astype(np.float32))[:, None]
    made = {k: torch.from_numpy(batch[k]) for k in ("patches", "text", "levels")}
    made |= {"cos": angle.cos(), "sin": angle.sin(), "index": torch.from_numpy(batch["index"])}
    alone = bool((patch == 1).all() and (text == 1).all())
    within, across = (patch[:, None, :, None] == k[:, None, None, :] for k in (patch, text))
    return made | {"within": None if alone else within, "across": None if alone else across}


def torch_forward(weights: dict[str, Any], batch: dict[str, Any], cfg: DiTConfig) -> Any:
    """Clean patches predicted from noisy ones, as `DiT.apply` without clip embeddings."""
    import torch
    import torch.nn.functional as f

    def linear(name: str, x: Any) -> Any:
        return f.linear(x, weights[f"{name}/w"], weights[f"{name}/b"])

    def of_token(x_RKD: Any) -> Any:
        if x_RKD.shape[1] == 1:
            return x_RKD
        return torch.take_along_dim(x_RKD, batch["index"][:, :, None], 1)

    def modulate(x: Any, shift: Any, scale: Any) -> Any:
        return f.layer_norm(x, x.shape[-1:], eps=cfg.eps) * (1 + of_token(scale)) + of_token(shift)

    with torch.autocast("cpu", enabled=False):
        half = cfg.freq_width // 2
        rates = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        wave = 1000.0 * batch["levels"][..., None] * rates.float()
        hidden = f.silu(linear("inputs/time/in", torch.cat([wave.cos(), wave.sin()], -1)))
        time = linear("inputs/time/out", hidden)
        six = linear("inputs/time/six", f.silu(time)).unflatten(-1, (6, cfg.width))
    x = linear("inputs/patch", batch["patches"])
    text = linear("inputs/text_in", batch["text"])
    text = linear("inputs/text_out", f.gelu(text, approximate="tanh"))
    for layer in range(cfg.layers):
        at = f"blocks/{layer}"
        m = (six + weights[f"{at}/table"]).unbind(2)
        h = modulate(x, m[0], m[1])
        x = x + of_token(m[2]) * _attention(weights, f"{at}/self", h, h, batch, cfg, "within")
        h = f.layer_norm(x, x.shape[-1:], weights[f"{at}/norm_g"], weights[f"{at}/norm_b"], cfg.eps)
        x = x + _attention(weights, f"{at}/cross", h, text, batch, cfg, "across")
        h = linear(f"{at}/up", modulate(x, m[3], m[4]))
        x = x + of_token(m[5]) * linear(f"{at}/down", f.gelu(h, approximate="tanh"))
    shift, scale = (time[:, :, None] + weights["head/table"]).unbind(2)
    return linear("head/out", modulate(x, shift, scale)).float()


def _attention(
    weights: dict[str, Any], name: str, x: Any, source: Any, batch: dict[str, Any],
    cfg: DiTConfig, mask: str,
) -> Any:  # fmt: skip
    import torch
    import torch.nn.functional as f

    def project(part: str, z: Any) -> Any:
        y = f.linear(z, weights[f"{name}/{part}/w"], weights[f"{name}/{part}/b"])
        if part != "v":
            gain = weights[f"{name}/{part}_norm"].to(y.dtype)  # else torch leaves its fast kernel
            y = f.rms_norm(y, y.shape[-1:], gain, cfg.eps)
        return y.unflatten(-1, (cfg.heads, -1)).transpose(1, 2)

    def turn(z: Any) -> Any:
        first, second = z.float().chunk(2, -1)
        cos, sin = batch["cos"], batch["sin"]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(z.dtype)

    q, k, v = project("q", x), project("k", source), project("v", source)
    if mask == "within":
        q, k = turn(q), turn(k)
    q, k = q.to(v.dtype), k.to(v.dtype)
    out = f.scaled_dot_product_attention(q, k, v, attn_mask=batch[mask])
    return f.linear(
        out.transpose(1, 2).flatten(2), weights[f"{name}/out/w"], weights[f"{name}/out/b"]
    )
