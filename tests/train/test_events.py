"""Records of a run: strict JSON lines, each step once; event files another reader understands."""

import json
import struct
import sys
import types

import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.train.events import JsonLines, TensorBoard, WandB, read_metrics


def test_lines_are_strict_json_and_come_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLines(path, 0)
    values = {"loss": float("nan"), "worst": float("-inf"), "n": 3, "by_size": {"48x48": [1.5, 2]}}
    writer.write(1, "train", values)
    writer.close()

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    (record,) = read_metrics(path)
    assert np.isnan(record["loss"]) and record["worst"] == float("-inf")
    assert record["n"] == 3 and record["by_size"] == {"48x48": [1.5, 2]}


def test_opened_again_it_drops_later_steps_and_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLines(path, 0)
    for step in range(1, 7):
        writer.write(step, "train", {"loss": 1.0 / step})
    writer.close()
    with path.open("a") as stream:
        stream.write('{"step": 7, "kind": "tr')
    writer = JsonLines(path, 4)
    writer.write(5, "train", {"loss": 0.5})
    writer.close()
    assert [(r["step"], r["loss"]) for r in read_metrics(path)][-2:] == [(4, 0.25), (5, 0.5)]
    assert len(path.read_text().splitlines()) == 5


def records(path):
    """TFRecord framing, read straight from its definition: length, crc, content, crc."""
    content, out = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        out.append(
            (content[:8], content[8:12], content[12 : 12 + length], content[12 + length :][:4])
        )
        content = content[16 + length :]
    return out


def test_events_are_what_tensorboardx_would_read(tmp_path):
    """Frames, checksums and messages by tensorboardX's own code."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    masked = pytest.importorskip("tensorboardX.record_writer").masked_crc32c
    writer = TensorBoard(tmp_path, 300)
    writer.write(301, "train", {"loss": 0.125, "tokens": 4096, "text": "left out"})
    writer.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    events = []
    for head, head_crc, content, crc in records(path):
        assert struct.unpack("<I", head_crc)[0] == masked(head)
        assert struct.unpack("<I", crc)[0] == masked(content)
        events.append(event_pb2.Event.FromString(content))
    assert events[0].file_version == "brain.Event:2"
    assert events[1].session_log.status == event_pb2.SessionLog.START and events[1].step == 301
    scalars = {v.tag: v.simple_value for v in events[2].summary.value}
    assert scalars == {"train/loss": 0.125, "train/tokens": 4096.0} and events[2].step == 301


def test_wandb_is_optional_and_gets_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(BadInput, match="wandb is not installed"):
        WandB("project", tmp_path, {})
    logged = []
    run = types.SimpleNamespace(
        log=lambda values, step: logged.append((step, values)), finish=lambda: logged.append("end")
    )
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **kwargs: run))
    writer = WandB("project", tmp_path, {"steps": 3})
    writer.write(2, "train", {"loss": 1.0, "table": {"a": 1}})
    writer.close()
    assert logged == [(2, {"train/loss": 1.0}), "end"]
