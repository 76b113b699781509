"""Metrics as JSON lines, as TensorBoard event files, and (when asked for) to Weights & Biases."""

import json
import math
import pathlib
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, Protocol

from vidsim.core.errors import bad
from vidsim.store.manifest import write_atomic


class Writer(Protocol):
    """Takes the numbers of one step."""

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Adds one record: `kind` is "train" or the name of an evaluation."""

    def close(self) -> None:
        """Ends the record."""


class JsonLines:
    """`metrics.jsonl`: one object a line with "step", "kind" and the values.

    Opened again at `step`, it drops the lines of later steps (they will be written again) and a
    torn last line, so each step is there once however often the run was stopped. Numbers that are
    not finite are written as "nan", "inf", "-inf", so that every line is strict JSON.
    """

    def __init__(self, path: pathlib.Path, step: int) -> None:
        if path.exists():
            kept = [r for r in read_metrics(path) if r["step"] <= step]
            write_atomic(path, "".join(_line(r) for r in kept).encode())
        self._stream = path.open("a")

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Appends one line and flushes it."""
        self._stream.write(_line({"step": step, "kind": kind, **values}))
        self._stream.flush()

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


def read_metrics(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; "nan" and "inf" come back as floats."""
    records = []
    for line in pathlib.Path(path).read_text().splitlines():
        try:
            records.append({k: _revive(v) for k, v in json.loads(line).items()})
        except json.JSONDecodeError:  # the last line of a killed process
            break
    return records


class TensorBoard:
    """Scalars as TensorBoard event files (the format of tensorboard/compat/proto/event.proto).

    Opened again at `step`, it tells TensorBoard to forget what came after.
    """

    def __init__(self, folder: pathlib.Path, step: int) -> None:
        name = f"events.out.tfevents.{time.time_ns() // 1000}.{socket.gethostname()}"
        folder.mkdir(parents=True, exist_ok=True)
        self._stream = (folder / name).open("wb")
        self._event(0, _field(3, b"brain.Event:2"))
        self._event(step + 1, _field(7, _varint(1 << 3) + _varint(1)))  # session starts here

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Writes every number among the values as the scalar `kind/name`."""
        scalars = b"".join(
            _field(1, _field(1, f"{kind}/{name}".encode()) + b"\x15" + struct.pack("<f", value))
            for name, value in values.items()
            if isinstance(value, int | float)
        )
        self._event(step, _field(5, scalars))
        self._stream.flush()

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def _event(self, step: int, body: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + body
        head = struct.pack("<Q", len(event))
        masked = struct.pack("<I", _masked_crc(head)), struct.pack("<I", _masked_crc(event))
        self._stream.write(head + masked[0] + event + masked[1])


class WandB:
    """Weights & Biases, when the user has it installed and names a project."""

    def __init__(self, project: str, folder: pathlib.Path, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            what = f"{project!r} but wandb is not installed"
            raise bad("run.wandb", what, change="pip install wandb, or leave it out") from None
        self._run = wandb.init(
            project=project, id=folder.name, dir=str(folder), config=dict(config), resume="allow"
        )

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Logs the numbers among the values."""
        numbers = {f"{kind}/{k}": v for k, v in values.items() if isinstance(v, int | float)}
        self._run.log(numbers, step=step)

    def close(self) -> None:
        """Finishes the wandb run."""
        self._run.finish()


def _line(record: Mapping[str, Any]) -> str:
    plain = {k: _plain(v) for k, v in record.items()}
    return json.dumps(plain, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _revive(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _revive(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_revive(v) for v in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _crc_table()


def _masked_crc(content: bytes) -> int:
    """CRC-32C as record files mask it: rotated right by 15, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
