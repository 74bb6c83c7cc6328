"""Reading TensorBoard event files as TensorBoard does: steps that a later start takes back do not count."""

import io
import pathlib
import struct

import numpy as np
from PIL import Image


def read_events(folder: pathlib.Path) -> dict[str, list[tuple[int, object]]]:
    """(step, value) by name, from all files of a folder in their order: numbers, images or histogram counts."""
    from tensorboardX.proto.event_pb2 import SessionLog

    found: dict[str, list[tuple[int, object]]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in _events(path):
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                for name, entries in found.items():
                    found[name] = [entry for entry in entries if entry[0] < event.step]
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, _value(value)))
    return found


def _events(path: pathlib.Path):
    from tensorboardX.proto.event_pb2 import Event

    content = path.read_bytes()
    place = 0
    while place < len(content):
        (length,) = struct.unpack("<Q", content[place : place + 8])
        # Length, its checksum, the event, its checksum.
        yield Event.FromString(content[place + 12 : place + 12 + length])
        place += 16 + length


def _value(value):
    kind = value.WhichOneof("value")
    if kind == "image":
        return np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
    return sum(value.histo.bucket) if kind == "histo" else value.simple_value
