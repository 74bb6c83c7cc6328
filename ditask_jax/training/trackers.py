"""TensorBoard and Weights & Biases, and the spectra that they are sent."""

import abc
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ditask_jax.adapters.spectral import SpectralAdapter
from ditask_jax.config import to_json
from ditask_jax.files import atomic_write_text
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import linears, prepare_adapters
from ditask_jax.nn.state import ModelState
from ditask_jax.tasks import Task
from ditask_jax.training.sharding import replicated

# Singular values before and after, layer by layer, from a training state: what the logs show of a spectral method.


def make_spectra(parts: ModelState, mesh: Mesh) -> Callable:
    """`spectra(trainable, stats, frozen) -> {"LAYER/STREAM": (before, after)}`, jitted, each `[P, R]`.

    P > 1 in a packed q, k, v. Streams with the unchanged spectrum are left out, and so are layers whose singular values
    do not move: for most methods the dict is empty.
    """

    def spectra(trainable, stats, frozen):
        backbone = parts.merge(trainable, frozen, stats).backbone
        prepared = prepare_adapters(backbone, Context(train=False)).prepared
        found = {}
        for layer in linears(backbone):
            adapter = layer.adapter
            if not isinstance(adapter, SpectralAdapter):
                continue
            before, change = adapter.singular_values[...], prepared[layer.info.path]
            for stream, (row, _) in adapter.moving.items():
                found[f"{layer.info.path}/{stream}"] = (before, before + change[row])
        return found

    return jax.jit(spectra, out_shardings=replicated(mesh))


class Sink(abc.ABC):
    """A place that a run is logged to. Steps never fall; what is written twice for one step has different names."""

    @abc.abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name, all finite."""

    @abc.abstractmethod
    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """A uint8 image `[H, W, 3]`."""

    @abc.abstractmethod
    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """The distribution of some numbers."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Called before a checkpoint: everything so far belongs to it."""

    @abc.abstractmethod
    def close(self) -> None:
        """Called once, also when training ends by an error."""


# Numbers under the names that the code of DiTASK and MTLoRA logs, so that their dashboards show runs from here.


_MEGABYTE = 2**20
_RENAMED = {"train/loss": "train/train_loss", "time/step": "train/time"}
_MEMORY = ("time/device_memory", "time/process_memory")


def original_names(
    step: int, values: Mapping[str, float], steps_per_epoch: int, weights: Mapping[str, float]
) -> dict[str, float]:
    """Further names for values of a step; `train/learning_rate`, `train/grad_norm`, `train/tasks/TASK/loss` and
    `val/tasks/TASK/METRIC` are the same in both.

    Args:
      step: optimiser steps done.
      values: by our names.
      steps_per_epoch: of the training set.
      weights: of the losses by task.

    >>> original_names(7, {"train/loss": 0.5, "time/step": 0.1}, 3, {})
    {'train/train_loss': 0.5, 'train/time': 0.1, 'train/epoch_ndx': 2, 'train/batch_ndx': 0}
    >>> original_names(7, {"val/tasks/depth/loss": 0.5, "val/tasks/sal/loss": 0.1}, 3, {"depth": 1.0, "sal": 5.0})
    {'val/val_loss': 1.0, 'val/epoch': 2}
    """
    found: dict[str, float] = {new: values[name] for name, new in _RENAMED.items() if name in values}
    if memory := next((values[name] for name in _MEMORY if name in values), None):
        found["train/memory"] = memory / _MEGABYTE
    if "train/loss" in values:
        found["train/epoch_ndx"], found["train/batch_ndx"] = divmod(step - 1, steps_per_epoch)
    losses = {task: values.get(f"val/tasks/{task}/loss") for task in weights}
    if losses and None not in losses.values():
        found["val/val_loss"] = sum(weights[task] * loss for task, loss in losses.items())
        found["val/epoch"] = (step - 1) // steps_per_epoch
    return found


# TensorBoard event files, by tensorboardX: NumPy and protobuf alone, no TensorFlow and no server to install.


_FLUSH_SECONDS = 30


class TensorBoardSink(Sink):
    """Writes event files of TensorBoard.

    Every start of a run writes a file of its own. It begins by telling the reader which steps of older files count no
    longer: those behind the checkpoint that training resumes from, which are written again.

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


# Weights & Biases, online or offline, under the names that the reference implementations log too.


_BINS = 64


class WandbSink(Sink):
    """Logs to a run of Weights & Biases whose id stays the same however often training is started.

    Online, what W&B has cannot be taken back, and what it had not received when a process was killed is lost. So a
    training that resumes asks for the last step that is there; steps up to it are not sent again, and what is missing
    before the checkpoint is taken from `metrics.jsonl`. Offline every start writes a part of its own, and `wandb sync`
    lets a later part of an id take the place of an earlier one: each holds all scalars from step 1 on.

    Args:
      folder: of the run; W&B keeps its files in `wandb/` below. The log of metrics is open already.
      config: of the run.
      tasks: its tasks.
      steps_per_epoch: of this training set.
      logged: values by step that the metrics log has so far, all finite.
    """

    def __init__(
        self,
        folder: Path,
        config: ConfigDict,
        tasks: Sequence[Task],
        steps_per_epoch: int,
        logged: Mapping[int, Mapping[str, float]],
    ):
        import wandb

        own = folder / "wandb"
        identity = _identity(own / "id")
        self._weights = {task.name: task.loss_weight for task in tasks}
        self._steps_per_epoch = steps_per_epoch
        self._histogram, self._image = wandb.Histogram, wandb.Image
        self._begun: int | None = None  # a step whose values may not all be there yet
        options = config.logging
        online = options.wandb == "online"
        self._run = wandb.init(
            project=options.wandb_project,
            name=options.wandb_name or folder.resolve().name,
            id=identity,
            dir=str(folder),
            mode=options.wandb,
            # Offline there is nobody to ask about an earlier part.
            resume="allow" if online else None,
            config=json.loads(to_json(config)),
            # Online it says where the run can be seen.
            settings=wandb.Settings(silent=not online, console="off", disable_git=True, save_code=False),
        )
        self._last = self._run.step - 1 if online else 0
        for step, values in logged.items():
            self.scalars(step, values)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        more = original_names(step, values, self._steps_per_epoch, self._weights)
        self._log(step, {**values, **more})

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        self._log(step, {name: self._image(picture)})

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        self._log(step, {name: self._histogram(np_histogram=np.histogram(values, _BINS))})

    def flush(self) -> None:
        if self._begun is not None:
            self._run.log({}, step=self._begun, commit=True)
            self._begun = None

    def close(self) -> None:
        self._run.finish()

    def _log(self, step: int, values: Mapping) -> None:
        if step > self._last:
            self._begun = step
            self._run.log(dict(values), step=step)


def _identity(path: Path) -> str:
    """The id of the run, made when it is asked for first."""
    if not path.is_file():
        atomic_write_text(path, uuid.uuid4().hex[:8] + "\n")
    return path.read_text(encoding="utf-8").strip()
