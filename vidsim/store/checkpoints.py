"""Checkpoints that are either whole or refused.

Orbax writes the arrays (asynchronously, from any number of processes). It restores flipped bits and
other dtypes without a word and never falls back, so this store adds: a manifest with the hash of
every file, a digest of every array, a commit by one rename, a walk from the newest step to the
oldest, and quarantine.

    <step>/            a committed checkpoint: Orbax files and VIDSIM_MANIFEST.json
    <step>.saving*     being written, or left by a process that was killed; never read
    <step>.corrupt     found damaged; kept for inspection, never read again
"""

import dataclasses
import errno
import importlib.metadata
import pathlib
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from vidsim.core.digest import digest_leaves
from vidsim.core.errors import BadInput, bad
from vidsim.core.exits import DiskFull, NoValidCheckpoint
from vidsim.core.trees import unflatten
from vidsim.store import manifest as manifests
from vidsim.store.manifest import Manifest

Flat = dict[str, Any]
_LIBRARIES = ("jax", "orbax-checkpoint", "numpy")
_LEFTOVER = re.compile(r"\d+\.(saving|deleting)")


@dataclasses.dataclass(frozen=True)
class Restored:
    """What came back: the step, the items asked for, the facts saved with them, and one line for
    each newer checkpoint that was passed over because it is damaged."""

    step: int
    items: dict[str, Any]
    extra: Mapping[str, Any]
    passed_over: tuple[str, ...]


class CheckpointStore:
    """The checkpoints of one run, in one folder.

    keep        how many of the newest are kept
    keep_every  steps that are multiples of this are kept for ever (None: no such steps)
    """

    def __init__(
        self, directory: str | pathlib.Path, keep: int = 3, keep_every: int | None = None
    ) -> None:
        if keep < 1 or (keep_every is not None and keep_every < 1):
            raise bad("checkpoints", f"keep={keep}, keep_every={keep_every}", "at least 1")
        self.directory = pathlib.Path(directory).absolute()
        self.keep, self.keep_every = keep, keep_every
        self._commit: threading.Thread | None = None
        self._error: BaseException | None = None

    def steps(self) -> list[int]:
        """Committed steps on the disk, oldest first; says nothing about damage."""
        if not self.directory.is_dir():
            return []
        names = [p.name for p in self.directory.iterdir() if p.is_dir()]
        return sorted(int(name) for name in names if name.isdigit())

    def clean(self) -> list[str]:
        """Removes what killed processes left behind; only the process that saves may call it."""
        if not _is_primary() or not self.directory.is_dir():
            return []
        left = [p for p in self.directory.iterdir() if _LEFTOVER.match(p.name)]
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        return sorted(p.name for p in left)

    def save(
        self, step: int, items: Mapping[str, Any], extra: Mapping[str, Any] | None = None
    ) -> None:
        """Starts saving named trees of arrays as `step`; returns once the arrays may be donated.

        items   name -> pytree of jax arrays; each name can be read back alone
        extra   facts to keep with them (JSON)
        Raises  DiskFull, or the error of the save before
        """
        self.wait()
        if (self.directory / str(step)).exists():
            return
        flat = {name: _leaves(tree) for name, tree in items.items()}
        leaves = {f"{name}/{path}": x for name, tree in flat.items() for path, x in tree.items()}
        self.directory.mkdir(parents=True, exist_ok=True)
        self._check_space(sum(x.nbytes for x in leaves.values()))
        checked = {path: x for path, x in leaves.items() if x.size}
        digests = dict(zip(checked, digest_leaves(list(checked.values())), strict=True))
        draft = self.directory / f"{step}.saving"
        written = {
            name: {_orbax_name(path): x for path, x in tree.items() if x.size}
            for name, tree in flat.items()
        }
        try:
            response = ocp.save_checkpointables_async(
                draft, {k: v for k, v in written.items() if v}, overwrite=True
            )
        except Exception as error:
            raise self._explain(error, draft) from error
        arrays = {
            path: {"shape": list(x.shape), "dtype": str(x.dtype)} for path, x in leaves.items()
        }
        facts = (step, arrays, digests, dict(extra or {}))
        self._commit = threading.Thread(target=self._finish, args=(response, draft, *facts))
        self._commit.start()

    def wait(self) -> None:
        """Blocks until the save under way is committed. Raises its error."""
        if self._commit is not None:
            self._commit.join()
            self._commit = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def restore(self, abstract: Mapping[str, Any]) -> Restored | None:
        """The newest whole checkpoint, onto the shapes, dtypes and shardings of `abstract`.

        Damaged checkpoints are renamed to <step>.corrupt and the next older one is tried.
        abstract  name -> pytree of jax.ShapeDtypeStruct (with shardings), from the run's own config
        Returns   None when the folder has no checkpoint
        Raises    BadInput when the checkpoint is of another architecture; NoValidCheckpoint when
                  every checkpoint is damaged
        """
        seen, lines = self.steps(), list[str]()
        for step in reversed(seen):
            result = self._read(step, abstract, tuple(abstract), lines)
            if result is not None:
                return result
            self._quarantine(step)
        if not seen:
            return None
        raise NoValidCheckpoint(
            f"{self.directory}: none of {len(seen)} checkpoints is whole; {'; '.join(lines)}; "
            "they are kept as *.corrupt, start in an empty folder"
        )

    def load(self, items: Sequence[str], step: int | None = None) -> Restored:
        """Reads some items of the newest whole checkpoint (or of `step`) as nested dicts of arrays.

        For readers that did not make the checkpoint: shapes come from its manifest, arrays go to
        the first device, and damaged checkpoints stay where they are.
        Raises  BadInput when there is none; NoValidCheckpoint when none asked for is whole
        """
        steps = self.steps() if step is None else [step]
        if not steps or (step is not None and step not in self.steps()):
            found = ", ".join(map(str, self.steps())) or "none"
            raise bad(f"{self.directory}", f"no checkpoint {step or ''}", f"found: {found}")
        lines: list[str] = []
        for candidate in reversed(steps):
            result = self._read(candidate, None, tuple(items), lines)
            if result is not None:
                return result
        raise NoValidCheckpoint(f"{self.directory}: {'; '.join(lines)}")

    def manifest(self, step: int) -> Manifest:
        """The manifest of a step. Raises ValueError when it is not valid."""
        return manifests.read_manifest(self.directory / str(step))

    def verify(self, step: int, check_hashes: bool = True) -> list[str]:
        """What is wrong with a step, one line for each file; empty when it is whole."""
        folder = self.directory / str(step)
        try:
            manifest = manifests.read_manifest(folder)
        except ValueError as error:
            return [str(error)]
        if manifest.step != step:
            return [f"{manifests.NAME} is of step {manifest.step}"]
        return manifests.damaged_files(folder, manifest, check_hashes)

    def prune(self) -> list[int]:
        """Deletes committed steps beyond `keep`, except multiples of `keep_every`."""
        spare = [
            s
            for s in self.steps()[: -self.keep]
            if not (self.keep_every and s % self.keep_every == 0)
        ]
        for step in spare:
            doomed = self.directory / f"{step}.deleting"
            (self.directory / str(step)).rename(doomed)  # a half-deleted step must not look damaged
            shutil.rmtree(doomed, ignore_errors=True)
        return spare

    def _finish(
        self,
        response: Any,
        draft: pathlib.Path,
        step: int,
        arrays: dict[str, dict[str, Any]],
        digests: dict[str, jax.Array],
        extra: dict[str, Any],
    ) -> None:
        """Runs beside training: waits for Orbax, hashes, commits by one rename, prunes."""
        try:
            response.result()
            values = jax.device_get(digests)
            if not _is_primary():
                return
            for path, entry in arrays.items():
                entry["digest"] = int(values.get(path, 0))
            versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
            listed = manifests.list_files(draft)
            manifests.write_manifest(draft, Manifest(step, listed, arrays, extra, versions))
            draft.rename(self.directory / str(step))
            manifests.sync_folder(self.directory)
            self.prune()
        except BaseException as error:
            self._error = self._explain(error, draft)

    def _read(
        self,
        step: int,
        abstract: Mapping[str, Any] | None,
        names: Sequence[str],
        lines: list[str],
    ) -> Restored | None:
        """One step, or None with a line added to `lines` when it is damaged."""
        problems = _agree(self.verify(step) if _is_primary() else [])
        if not problems:
            manifest = self.manifest(step)
            where = f"checkpoint {self.directory / str(step)}"
            if abstract is None:
                abstract = _abstract_from(manifest, names, where)
            flat = {name: _leaves(abstract[name]) for name in names}
            _check_architecture(manifest, flat, where)
            # Errors pass through: the files are whole, so a failure is not damage.
            loaded, problems = self._load_arrays(step, manifest, flat)
            if not problems:
                items = {n: _rebuild(abstract[n], loaded[n]) for n in names}
                return Restored(step, items, manifest.extra, tuple(lines))
        lines.append(f"step {step}: {problems[0]}")
        return None

    def _load_arrays(
        self, step: int, manifest: Manifest, flat: Mapping[str, Flat]
    ) -> tuple[dict[str, Flat], list[str]]:
        asked = {
            name: {_orbax_name(p): _placed(x) for p, x in tree.items() if x.size}
            for name, tree in flat.items()
        }
        wanted = {name: tree for name, tree in asked.items() if tree}
        raw = ocp.load_checkpointables(self.directory / str(step), wanted) if wanted else {}
        loaded = {
            name: {
                p: raw[name][_orbax_name(p)] if x.size else jax.numpy.zeros(x.shape, x.dtype)
                for p, x in tree.items()
            }
            for name, tree in flat.items()
        }
        full = {f"{n}/{p}": x for n, tree in loaded.items() for p, x in tree.items() if x.size}
        values = jax.device_get(digest_leaves(list(full.values())))
        wrong = [
            f"array {path} does not match its digest"
            for path, value in zip(full, values, strict=True)
            if int(value) != manifest.arrays[path]["digest"]
        ]
        return loaded, wrong

    def _quarantine(self, step: int) -> None:
        if _is_primary():
            target = self.directory / f"{step}.corrupt"
            number = 2
            while target.exists():
                target, number = self.directory / f"{step}.corrupt.{number}", number + 1
            (self.directory / str(step)).rename(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"vidsim_quarantine_{step}")

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise DiskFull(
                f"{self.directory}: a checkpoint needs {needed:,} bytes, {free:,} are free; "
                "earlier checkpoints are whole; free some space and start the same command"
            )

    def _explain(self, error: BaseException, draft: pathlib.Path) -> BaseException:
        """Turns a full disk into DiskFull and removes the part that was written."""
        if not _is_disk_full(error):
            return error
        for path in self.directory.glob(f"{draft.name}*"):
            shutil.rmtree(path, ignore_errors=True)
        free = shutil.disk_usage(self.directory).free
        return DiskFull(
            f"{self.directory}: no space left for {draft.name}, {free:,} bytes are free now; "
            "earlier checkpoints are whole; free some space and start the same command"
        )


def _is_primary() -> bool:
    return jax.process_index() == 0


def _agree(problems: list[str]) -> list[str]:
    """What process 0 found, on every process."""
    if jax.process_count() == 1:
        return problems
    found = int(multihost_utils.broadcast_one_to_all(np.int32(len(problems))))
    return problems or ["damaged (see the log of process 0)"] * min(found, 1)


def _leaves(tree: Any) -> Flat:
    """Leaves of any pytree (dicts, tuples, optimizer states) by slash path."""
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    flat = {"/".join(_key(k) for k in path) or "leaf": leaf for path, leaf in pairs}
    if len(flat) != len(pairs) or len({_orbax_name(p) for p in flat}) != len(pairs):
        raise ValueError("two leaves of one tree have the same path")
    return flat


def _rebuild(tree: Any, flat: Flat) -> Any:
    paths = _leaves(tree)
    return jax.tree.unflatten(jax.tree.structure(tree), [flat[p] for p in paths])


def _key(entry: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _orbax_name(path: str) -> str:
    return path.replace("/", ".")


def _placed(x: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(x, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _abstract_from(manifest: Manifest, names: Sequence[str], where: str) -> dict[str, Any]:
    known = sorted({path.split("/", 1)[0] for path in manifest.arrays})
    trees: dict[str, Any] = {}
    for name in names:
        if name not in known:
            raise bad(where, f"has no {name!r}", f"holds {', '.join(known)}")
        flat = {
            path.split("/", 1)[1]: jax.ShapeDtypeStruct(tuple(e["shape"]), np.dtype(e["dtype"]))
            for path, e in manifest.arrays.items()
            if path.startswith(f"{name}/")
        }
        trees[name] = unflatten(flat)
    return trees


def _check_architecture(manifest: Manifest, flat: Mapping[str, Flat], where: str) -> None:
    """Raises BadInput naming the first parameter that differs in name, shape or dtype."""
    change = "use the configuration it was trained with"
    for item, leaves in flat.items():
        saved = {
            p.removeprefix(f"{item}/"): e
            for p, e in manifest.arrays.items()
            if p.startswith(f"{item}/")
        }
        for path in sorted(saved.keys() | leaves.keys()):
            have = _kind(saved[path]["shape"], saved[path]["dtype"]) if path in saved else "absent"
            want = _kind(leaves[path].shape, leaves[path].dtype) if path in leaves else "absent"
            if have != want:
                raise bad(where, f"{item}/{path} is {have}", f"this model has {want}", change)


def _kind(shape: Sequence[int], dtype: Any) -> str:
    return f"{np.dtype(dtype).name}[{','.join(map(str, shape))}]"


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error)
    return not isinstance(error, BadInput) and (
        "No space left on device" in text or "Disk quota exceeded" in text
    )
