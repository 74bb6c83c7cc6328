"""TensorBoard event files, by tensorboardX: NumPy and protobuf alone, no TensorFlow and no server to install."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ditask_jax.training.sinks import Sink

_FLUSH_SECONDS = 30


class TensorBoardSink(Sink):
    """Writes event files of TensorBoard.

    Every start of a run writes a file of its own. It begins by telling the reader which steps of older files count no
    longer: those behind the checkpoint that training goes on from, which are written again.

    Events are written here and now. The package's `SummaryWriter` hands them to a thread: what waits there when a
    process is killed is lost, and where the thread has died of a full disk, training would wait for it for ever.

    Args:
      folder: for `tensorboard --logdir`.
      start: steps done.
    """

    def __init__(self, folder: Path, start: int):
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._summary, self._event = summary, Event
        folder.mkdir(parents=True, exist_ok=True)
        # The number of the process: two starts within a second are two files.
        self._file = EventsWriter(str(folder / "events"), f".{os.getpid()}.{start}")
        self._flushed = time.monotonic()
        began = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(wall_time=time.time(), step=start + 1, session_log=began))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._write(step, self._summary.scalar(name, value))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        self._write(step, self._summary.image(name, picture, dataformats="HWC"))

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        self._write(step, self._summary.histogram(name, np.asarray(values, np.float64), "auto"))

    def flush(self) -> None:
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._file.close()

    def _write(self, step: int, content) -> None:
        self._file.write_event(self._event(wall_time=time.time(), step=step, summary=content))
