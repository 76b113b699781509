"""Small programs that stand where a cloud's tools would, and write down how they were called."""

import os
import pathlib
import subprocess


def put(folder, name, body=""):
    """A bash program `name` in folder/bin; it appends its words to folder/calls first."""
    path = pathlib.Path(folder) / "bin" / name
    path.parent.mkdir(exist_ok=True)
    log = f'printf "%s" {name} >> {folder}/calls; printf " %q" "$@" >> {folder}/calls; '
    path.write_text(f"#!/usr/bin/env bash\n{log}echo >> {folder}/calls\n{body}\n")
    path.chmod(0o755)


def calls(folder, name):
    """The calls of one program, each as one line."""
    path = pathlib.Path(folder) / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.split(" ")[0] == name]


def bash(folder, script, **variables):
    """Runs a script with the programs of the folder before all others."""
    environment = os.environ | {"PATH": f"{folder}/bin:{os.environ['PATH']}"} | variables
    return subprocess.run(
        ["bash", str(script)], env=environment, capture_output=True, text=True, timeout=60
    )
