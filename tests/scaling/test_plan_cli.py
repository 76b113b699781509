"""`vidsim plan` refuses in one line, before anything is compiled."""

import importlib.util

import pytest

from vidsim.cli.main import build_parser, main, split_settings
from vidsim.cli.plan import words_of

CONFIG = "--config=experiments/pod.py:base"


def _refusal(capsys, *words):
    assert main(["plan", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("vidsim plan: ")
    return lines[0]


def test_unknown_topologies_list_the_known(capsys):
    assert "v5e, v5p, v6e, tpu7x" in _refusal(capsys, CONFIG, "--topology=v9:4x4")
    assert "4x4x4" in _refusal(capsys, CONFIG, "--topology=v5p:3x3x3")
    assert "--slices" in _refusal(capsys, CONFIG, "--topology=v5p:4x4x4", "--slices=0")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_the_compiler_the_extra_is_named(capsys):
    assert "pip install 'vidsim[tpu]'" in _refusal(capsys, CONFIG, "--topology=v5p:4x4x4")


def test_the_child_process_gets_the_same_command():
    words = ["plan", CONFIG, "--topology", "v5e:4x4", "--search", "--mfu", "0.5", "--slices", "2",
             "plan.rows_per_step=64", "optim.name=adamw"]  # fmt: skip
    parser = build_parser(["plan"])
    first = vars(parser.parse_args(words))
    assert vars(parser.parse_args(words_of(parser.parse_args(words)))) == first
    assert first["search"] and first["settings"] == words[-2:]


def test_settings_may_be_written_as_options():
    assert split_settings(["--config=a.py", "--plan.row_tokens=8", "--config.optim.lr=1", "--x=b.c",
                           "--topology=v5p:4x4x4", "a.b=2"]) == [
        "--config=a.py", "plan.row_tokens=8", "optim.lr=1", "--x=b.c", "--topology=v5p:4x4x4",
        "a.b=2"]  # fmt: skip
