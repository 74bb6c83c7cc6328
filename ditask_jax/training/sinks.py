"""Where the numbers and pictures of a run go: `metrics.jsonl` always, TensorBoard and Weights & Biases when asked."""

import abc
import contextlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ditask_jax.errors import ConfigError
from ditask_jax.tasks import Task
from ditask_jax.training.rundir import RunDir
from ditask_jax.training.starts import record_start
from ditask_jax.training.writers import MetricsWriter

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""Field of `config.logging` -> the package it needs."""


class Sink(abc.ABC):
    """A place that a run is logged to. Steps never fall; what is written twice for one step has different names."""

    @abc.abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name, all finite."""

    @abc.abstractmethod
    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """A uint8 picture `[H, W, 3]`."""

    @abc.abstractmethod
    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """The distribution of some numbers."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Called before a checkpoint: everything so far belongs to it."""

    @abc.abstractmethod
    def close(self) -> None:
        """Called once, also when training ends by an error."""


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
                record_start(run.starts, start, devices)
                for name in asked_for(config):
                    sink = _open(name, run, config, tasks, start, steps_per_epoch)
                    stack.callback(sink.close)
                    self._sinks.append(sink)
            self._stack = stack.pop_all()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds values to the row of a step."""
        self._writer.write(step, values)
        if self._sinks:
            # Texts and what is NaN stand in metrics.jsonl alone.
            known = {name: float(value) for name, value in values.items() if _is_finite(value)}
            for sink in self._sinks:
                sink.scalars(step, known)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Hands a picture file to the sinks."""
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


def _is_finite(value: Any) -> bool:
    return value is not None and not isinstance(value, str) and bool(np.isfinite(value))


def _open(name: str, run: RunDir, config: ConfigDict, tasks: Sequence[Task], start: int, steps_per_epoch: int) -> Sink:
    if name == "tensorboard":
        from ditask_jax.training.tensorboard import TensorBoardSink

        return TensorBoardSink(run.path / "tensorboard", start)
    from ditask_jax.training.wandb_log import WandbSink

    return WandbSink(run.path, config, tasks, steps_per_epoch)
