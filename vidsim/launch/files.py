"""Rendered job files: filled templates, and writing them whole or not at all."""

import dataclasses
import importlib.resources
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from vidsim.store.manifest import write_atomic

_HOLE = re.compile(r"@\{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class Rendered:
    """What a backend makes of a job.

    files   name -> content
    submit  command that starts the job, run in the folder of the files
    after   lines for the operator: how to watch, stop and fetch
    """

    files: Mapping[str, str]
    submit: tuple[str, ...]
    after: tuple[str, ...] = ()


def fill(template: str, values: Mapping[str, str]) -> str:
    """A file of templates/ with every @{name} replaced; each value must have its place."""
    text = importlib.resources.files("vidsim.launch").joinpath("templates", template).read_text()
    holes = set(_HOLE.findall(text))
    assert holes == set(values), f"{template}: {sorted(holes ^ set(values))}"
    return _HOLE.sub(lambda m: values[m[1]], text)


def to_yaml(body: Mapping[str, object], comment: str) -> str:
    """YAML under a comment, keys in the order given."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + yaml.dump(body, Dumper=_Readable, sort_keys=False, width=1000)


class _Readable(yaml.SafeDumper):
    """Scripts as blocks of lines."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Readable.add_representer(str, _text)


def write_files(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Writes every file through a temporary name; scripts may be executed."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in files.items():
        path = folder / name
        write_atomic(path, text.encode())
        path.chmod(0o755 if text.startswith("#!") else 0o644)
        paths.append(path)
    return paths
