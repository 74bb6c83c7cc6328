"""The metrics log: `metrics.jsonl`, one row per step, exact across a resume, and the trackers that get its rows too."""

import contextlib
import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ditask_jax.errors import ConfigError, DataError
from ditask_jax.files import atomic_write_bytes, json_text, parse_json, user_path
from ditask_jax.tasks import Task
from ditask_jax.training.run_folder import RunDir, record_launch
from ditask_jax.training.trackers import Sink, TensorBoardSink, WandbSink

# `metrics.jsonl`: every step exactly once, through kills and resumes.


METRICS_NAME = "metrics.jsonl"
TIMING_PREFIX = "time/"  # keys that two equal runs may differ in


class MetricsWriter:
    """Appends rows to `metrics.jsonl`; calls for one step are merged into one row.

    A row is complete on disk after `flush`, which belongs before the checkpoint of that step. Opening with
    `resume_step` forgets what came after it, so that a resumed run writes every later step once. Keys are sorted and
    numbers written with every bit, so equal runs give equal bytes, keys under `time/` aside. NaN and infinities become
    null.

    Args:
        workdir: Folder of the run.
        resume_step: Step of the checkpoint that training resumes from; 0 starts the log anew.
        active: Whether this process writes; the others get an object that does nothing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with MetricsWriter(folder) as writer:
    ...         writer.write(1, {"train/loss": 0.5})
    ...         writer.write(1, {"time/step": 0.1})
    ...     read_metrics(folder)
    [{'step': 1, 'time/step': 0.1, 'train/loss': 0.5}]
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int = 0, *, active: bool = True):
        self.path = user_path(workdir) / METRICS_NAME
        self._active = active
        self._file = None
        self._row: dict[str, Any] = {}  # the newest row
        self._start = 0  # where in the file the newest row starts
        self._pending = False  # whether the newest row has content that the file lacks
        if active:
            self._open_at(resume_step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds values to the row of a step; steps must not fall.

        Args:
            step: Optimiser steps done.
            values: Numbers (Python, NumPy or JAX scalars), texts or None by name.
        """
        if not self._active:
            return
        step = int(step)
        if self._row and step < self._row["step"]:
            raise ValueError(f"metrics of step {step} after those of step {self._row['step']}")
        if not self._row or step > self._row["step"]:
            self._emit()
            self._start = self._file.tell()
            self._row = {"step": step}
        self._row |= {name: _plain(name, value) for name, value in values.items()}
        self._pending = True

    def flush(self) -> None:
        """Brings everything written so far onto the disk."""
        if self._active:
            self._emit()
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes the file; may be called twice."""
        if self._file is not None:
            self.flush()
            self._file.close()
        self._active, self._file = False, None

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _open_at(self, resume_step: int) -> None:
        """Opens the log with the rows up to `resume_step`, dropping later ones and a half-written last line."""
        content = self.path.read_bytes() if self.path.exists() else b""
        kept = 0  # bytes
        lines = content.splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            row = _parse(line)
            if row is None:
                if number < len(lines):
                    raise DataError(f"{self.path}, line {number}: not a row of metrics; fix or remove the file")
                break
            if row["step"] > resume_step or resume_step == 0:
                break
            self._start, self._row = kept, row
            kept += len(line)
        if kept != len(content) or not self.path.exists():
            atomic_write_bytes(self.path, content[:kept])
        self._file = open(self.path, "ab")  # noqa: SIM115 (closed by close)

    def _emit(self) -> None:
        if not self._pending:
            return
        line = (json_text(dict(sorted(self._row.items(), key=_step_first))) + "\n").encode()
        if self._file.tell() == self._start:
            self._file.write(line)
            self._file.flush()
        else:
            # The row is in the file already and has grown (an evaluation of the same step): replace it, all or nothing.
            self._file.close()
            atomic_write_bytes(self.path, self.path.read_bytes()[: self._start] + line)
            self._file = open(self.path, "ab")  # noqa: SIM115
        self._pending = False


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Rows of a run's metrics log, without a half-written last one; empty where there is no log.

    Raises:
        DataError: A line is no row of metrics.
    """
    path = user_path(workdir) / METRICS_NAME
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    rows = [_parse(line) for line in lines]
    if rows and rows[-1] is None:
        rows.pop()
    if None in rows:
        raise DataError(f"{path}, line {rows.index(None) + 1}: not a row of metrics; fix or remove the file")
    return rows


def without_timings(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without the keys that two equal runs may differ in.

    >>> without_timings({"step": 1, "time/step": 0.2})
    {'step': 1}
    """
    return {name: value for name, value in row.items() if not name.startswith(TIMING_PREFIX)}


def _step_first(item: tuple[str, Any]) -> tuple[bool, str]:
    return item[0] != "step", item[0]


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = parse_json(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _plain(name: str, value: Any) -> Any:
    """A JSON value with every bit of a number."""
    if value is None or isinstance(value, str | bool):
        return value
    array = np.asarray(value)
    if array.size != 1 or (array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16"):
        raise TypeError(f"metric {name!r} is {type(value).__name__} {array.shape}, expected a single number")
    number = array.astype(np.float64).item() if array.dtype.kind not in "biu" else array.item()
    return None if isinstance(number, float) and not math.isfinite(number) else number


# Where the numbers and images of a run go: `metrics.jsonl` always, TensorBoard and Weights & Biases when asked.


PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""Field of `config.logging` -> the package it needs."""


def asked_for(config: ConfigDict) -> list[str]:
    """Which sinks a configuration asks for besides `metrics.jsonl`: "tensorboard", "wandb"."""
    wanted = {"tensorboard": config.logging.tensorboard, "wandb": config.logging.wandb != "off"}
    return [name for name, yes in wanted.items() if yes]


def check_logging(config: ConfigDict) -> None:
    """Raises ConfigError where a package is missing that the configuration needs; belongs before the first step."""
    for name in asked_for(config):
        package = PACKAGES[name]
        if importlib.util.find_spec(package) is None:
            off = "false" if name == "tensorboard" else "off"
            raise ConfigError(
                f"config: logging.{name}: the package {package} is not installed; run pip install {package}, or set "
                f"--config.logging.{name}={off}"
            )


class RunLog:
    """The log of a run while it trains: the metrics log and all sinks, as one.

    Values of one step may come in several calls. Going on from a checkpoint writes later steps once, in every sink.

    Args:
      run: the run's folder.
      config: its configuration.
      tasks: its tasks.
      start: steps done; 0 for a new run.
      steps_per_epoch: of this training set.
      devices: that it trains on, for `starts.jsonl`.
      active: whether this process writes; the others get an object that does nothing.
    """

    def __init__(
        self,
        run: RunDir,
        config: ConfigDict,
        tasks: Sequence[Task],
        start: int,
        steps_per_epoch: int,
        devices: Sequence = (),
        *,
        active: bool = True,
    ):
        with contextlib.ExitStack() as stack:
            self._writer = stack.enter_context(MetricsWriter(run.path, start, active=active))
            self._sinks = []
            if active:
                record_launch(run.starts, start, devices)
                for name in asked_for(config):
                    sink = _open(name, run, config, tasks, start, steps_per_epoch)
                    stack.callback(sink.close)
                    self._sinks.append(sink)
            self._stack = stack.pop_all()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds values to the row of a step."""
        self._writer.write(step, values)
        if self._sinks:
            known = _finite(values)
            for sink in self._sinks:
                sink.scalars(step, known)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Hands an image file to the sinks."""
        if self._sinks:
            from PIL import Image

            with Image.open(path) as file:
                picture = np.asarray(file.convert("RGB"))
            for sink in self._sinks:
                sink.picture(step, name, picture)

    def spectra(self, step: int, spectra: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Hands singular values to the sinks: their distribution, and how far they moved.

        Args:
          step: steps done.
          spectra: by layer and stream, the singular values before and after; see `make_spectra`.
        """
        for name, (before, after) in spectra.items():
            moved = 100 * float(np.abs(after - before).mean() / max(float(before.max()), 1e-30))
            for sink in self._sinks:
                sink.histogram(step, f"spectra/{name}", after.ravel())
                sink.scalars(step, {f"moved/{name}": moved})

    def flush(self) -> None:
        """Brings everything written so far onto the disk."""
        self._writer.flush()
        for sink in self._sinks:
            sink.flush()

    def close(self) -> None:
        """Flushes and closes everything; may be called twice."""
        self._stack.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """What trackers are sent of a row: texts and what is NaN or unknown stand in `metrics.jsonl` alone."""
    known = {name: value for name, value in values.items() if value is not None and not isinstance(value, str)}
    return {name: float(value) for name, value in known.items() if np.isfinite(value)}


def _open(name: str, run: RunDir, config: ConfigDict, tasks: Sequence[Task], start: int, steps_per_epoch: int) -> Sink:
    if name == "tensorboard":
        return TensorBoardSink(run.path / "tensorboard", start)
    logged = {row.pop("step"): _finite(row) for row in read_metrics(run.path)}
    return WandbSink(run.path, config, tasks, steps_per_epoch, logged)
