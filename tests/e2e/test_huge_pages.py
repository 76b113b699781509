"""The command starts again with huge pages when it computes, once, and only where one must ask."""

import os
import subprocess
import sys

import pytest

from vidsim.cli import huge_pages
from vidsim.cli.huge_pages import COMPUTING, SETTING, VARIABLE, tunables
from vidsim.cli.main import COMMANDS

GLIBC = ("glibc", "2.36")


@pytest.fixture
def mode(tmp_path):
    path = tmp_path / "enabled"
    path.write_text("always [madvise] never\n")
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has such pages")
def test_computing_commands_ask_once_and_keep_other_settings(mode):
    assert set(COMMANDS) >= COMPUTING
    assert tunables(["train", "--config=x"], {}, GLIBC, mode) == SETTING
    before = {VARIABLE: "glibc.malloc.arena_max=2"}
    asked = tunables(["train"], before, GLIBC, mode)
    assert asked == f"glibc.malloc.arena_max=2:{SETTING}"
    assert tunables(["train"], {VARIABLE: asked}, GLIBC, mode) is None
    assert tunables(["train"], {VARIABLE: "glibc.malloc.hugetlb=0"}, GLIBC, mode) is None


@pytest.mark.parametrize("words", [["index", "v"], ["--help"], [], ["run", "--", "train"]])
def test_other_commands_go_on(mode, words):
    assert tunables(words, {}, GLIBC, mode) is None


@pytest.mark.parametrize("text", ["[always] madvise never", "always madvise [never]", None])
def test_other_modes_and_machines_go_on(mode, text):
    assert tunables(["train"], {}, ("glibc", "2.34"), mode) is None
    assert tunables(["train"], {}, ("", ""), mode) is None
    if text is None:
        mode.unlink()
    else:
        mode.write_text(text)
    assert tunables(["train"], {}, GLIBC, mode) is None


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has such pages")
def test_it_starts_again_with_the_same_words(mode, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    monkeypatch.setattr(huge_pages, "MODE", mode)
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: GLIBC)
    monkeypatch.delenv(VARIABLE, raising=False)
    huge_pages.ask_for_huge_pages(["sample", "--prompt", "index"])
    huge_pages.ask_for_huge_pages(["index", "sample"])
    ((program, words, environ),) = started
    assert (program, words) == (sys.executable, sys.orig_argv)
    assert environ == {**os.environ, VARIABLE: SETTING}


def test_the_process_keeps_its_arguments_and_its_result():
    ask = [sys.executable, "-X", "utf8", "-m", "vidsim", "train", "--config=no such file.py",
           "--workdir", "nowhere"]  # fmt: skip
    answer = subprocess.run(ask, capture_output=True, text=True)
    assert answer.returncode == 2
    assert "no such file.py" in answer.stderr
