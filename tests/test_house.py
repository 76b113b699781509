"""The house: folders import only lower floors, files stay small, the core path stays light."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vidsim"
FLOORS = {
    "core": 0, "worlds": 0.5, "parallel": 1, "diffusion": 1, "data": 1, "store": 1, "nn": 2,
    "models": 3, "tasks": 4, "train": 5, "generate": 5, "eval": 6, "config": 1,
    "starts": 7.9, "runs": 8, "quickstart": 8.5, "scaling": 8.7, "launch": 8.8,
    "cli": 9, "__main__": 10,
}  # fmt: skip
NO_JAX = ("worlds", "data", "core/errors.py", "core/host_random.py", "core/batch.py",
          "core/dims.py", "core/patching.py")  # fmt: skip
MAX_FILE, MAX_FUNCTION = 400, 60


def _files():
    return sorted(PACKAGE.rglob("*.py"))


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{a.name}" for a in node.names)


def _room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_lower_floors(path):
    room = _room(path)
    if room == "__init__":
        return
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] != "vidsim" or len(parts) < 2 or parts[1] == room or parts[1] not in FLOORS:
            continue
        assert FLOORS[parts[1]] < FLOORS[room], f"{room} imports {parts[1]}, which is not below it"


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_host_rooms_do_not_import_jax(path):
    place = str(path.relative_to(PACKAGE))
    if any(place == room or place.startswith(room + "/") for room in NO_JAX):
        heavy = {n.split(".")[0] for n in _imports(path)} & {"jax", "flax", "optax"}
        assert not heavy, f"{place} imports {heavy}; this room runs in data workers"


def test_only_nn_and_models_import_flax():
    users = {_room(p) for p in _files() if any(n.split(".")[0] == "flax" for n in _imports(p))}
    assert users <= {"nn", "models"}


def test_files_and_functions_stay_small():
    crowded = []
    for path in _files():
        text = path.read_text()
        if text.count("\n") > MAX_FILE:
            crowded.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno > MAX_FUNCTION:
                crowded.append(
                    f"{path.relative_to(ROOT)}: {node.name} {node.end_lineno - node.lineno}"
                )
    assert not crowded, crowded


def test_core_path_needs_neither_torch_nor_tensorflow():
    rooms = "cli.main train.loop generate.sample eval.runner data.index store.shards".split()
    names = ", ".join(f"vidsim.{room}" for room in rooms)
    code = f"import sys, {names}; print([m for m in ('torch', 'tensorflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout
