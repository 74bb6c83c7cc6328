"""Reading what Weights & Biases writes offline: the rows that have reached the disk."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 32768
_HEADER = 7
_FULL, _FIRST, _LAST = 1, 2, 4


def offline_rows(folder: Path, identity: str) -> list[dict[str, Any]]:
    """Rows of all offline parts of a run, in the order in which they began; `_step` is the step of a row, and what is
    inside of a value stands under names of its own, as in `panels/val/_type`.

    A part whose process was killed ends where W&B last wrote to the disk.

    Args:
      folder: `wandb/` of the run.
      identity: id of the run.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for path in sorted(folder.glob(f"offline-run-*-{identity}/run-{identity}.wandb")):
        for content in _records(path.read_bytes()):
            record = Record.FromString(content)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def _records(content: bytes) -> Iterator[bytes]:
    """Records of a log in the format of LevelDB: pieces in blocks, behind a header of the file."""
    place, part = _HEADER, b""
    while place + _HEADER <= len(content):
        if _BLOCK - place % _BLOCK < _HEADER:
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + _HEADER])
        piece = content[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind == 0 or len(piece) < length:
            return  # what follows was not written any more
        part = piece if kind in (_FULL, _FIRST) else part + piece
        if kind in (_FULL, _LAST):
            yield part
