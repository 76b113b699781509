"""One strict table from logical axis names to mesh axes; only this file knows the mesh."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from vidsim.core.errors import bad, nearest
from vidsim.core.trees import flatten, is_axes

MeshAxes = str | tuple[str, ...] | None

# The one table. Rows and clips are split over data and fsdp, tokens of a row and rows of pixels
# over context. Weights are split over fsdp and context along their widest shared axis (devices
# that share a row hold different parts of the weights), and over tensor along the other one. What
# a preset leaves at size 1 splits nothing.
TABLE: dict[str, MeshAxes] = {
    "rows": ("data", "fsdp"), "clips": ("data", "fsdp"), "tokens": "context", "height": "context",
    "embed": ("fsdp", "context"), "caption": ("fsdp", "context"), "conv_out": ("fsdp", "context"),
    "mlp": "tensor", "heads": "tensor", "kv_heads": "tensor", "layers": None, "vocab": None,
    "patch": None, "text": None, "time": None, "table": None, "conv_in": None, "latent": None,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Rules:
    """Logical axis name -> mesh axis or axes (None = not split)."""

    table: Mapping[str, MeshAxes] = dataclasses.field(default_factory=lambda: TABLE)

    def spec(self, axes: tuple[str | None, ...], where: str) -> PartitionSpec:
        """The partition of an array with these logical axes.

        where   name of the array, for errors
        Raises  BadInput for an unknown name or a mesh axis that would be used twice
        """
        entries: list[MeshAxes] = []
        for name in axes:
            if name is not None and name not in self.table:
                raise bad(where, f"unknown logical axis {name!r}", nearest(name, self.table))
            entries.append(None if name is None else self.table[name])
        used = [m for e in entries if e for m in ((e,) if isinstance(e, str) else e)]
        if len(used) != len(set(used)):
            raise bad(where, f"axes {axes} use a mesh axis twice: {entries}", "each at most once")
        return PartitionSpec(*entries)

    def sharding(
        self,
        mesh: Mesh | AbstractMesh,
        axes: tuple[str | None, ...],
        shape: tuple[int, ...],
        where: str,
    ) -> NamedSharding:
        """As `spec`, placed on a mesh; also refuses sizes that the mesh axes do not divide."""
        spec = self.spec(axes, where)
        for size, entry, name in zip(shape, spec, axes, strict=True):
            parts = (entry,) if isinstance(entry, str) else entry or ()
            ways = math.prod(mesh.shape[p] for p in parts)
            if size % ways:
                raise bad(
                    where,
                    f"axis {name!r} of size {size} over {ways} devices {parts}",
                    "must divide",
                    "change the mesh or the width",
                )
        return NamedSharding(mesh, spec)


def shardings(rules: Rules, mesh: Mesh, axes_tree: Any, shapes_tree: Any) -> Any:
    """Shardings of weights: axes_tree holds tuples of names, shapes_tree arrays or structs."""
    axes, shapes = flatten(axes_tree), flatten(shapes_tree)
    if axes.keys() != shapes.keys():
        odd = sorted(axes.keys() ^ shapes.keys())[0]
        raise bad(
            "sharding", f"parameter {odd!r} has no counterpart", "axes and weights must match"
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, names: _named(rules, mesh, names, shapes, path), axes_tree, is_leaf=is_axes
    )


def _named(rules: Rules, mesh: Mesh, names: Any, shapes: Mapping[str, Any], path: Any) -> Any:
    key = "/".join(str(p.key) for p in path)
    return rules.sharding(mesh, names, tuple(shapes[key].shape), key)
