"""Weights & Biases, online or offline, under the names that the originals log too."""

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from ditask_jax.config import to_json
from ditask_jax.files import atomic_write_text
from ditask_jax.tasks import Task
from ditask_jax.training.original_names import original_names
from ditask_jax.training.sinks import Sink
from ditask_jax.training.wandb_files import offline_rows
from ditask_jax.training.writers import read_metrics

_BINS = 64


class WandbSink(Sink):
    """Logs to a run of Weights & Biases whose id stays the same however often training is started.

    What W&B has cannot be taken back, and what it had not written yet when a process was killed is lost. So a training
    that goes on first asks for the last step that is there; steps up to it are not sent again, and what is missing
    before the checkpoint is taken from `metrics.jsonl`.

    Args:
      folder: of the run; W&B keeps its files in `wandb/` below. The log of metrics is open already.
      config: of the run.
      tasks: its tasks.
      steps_per_epoch: of this training set.
    """

    def __init__(self, folder: Path, config: ConfigDict, tasks: Sequence[Task], steps_per_epoch: int):
        import wandb

        own = folder / "wandb"
        identity = _identity(own / "id")
        self._weights = {task.name: task.loss_weight for task in tasks}
        self._steps_per_epoch = steps_per_epoch
        self._histogram, self._image = wandb.Histogram, wandb.Image
        self._begun: int | None = None  # a step whose values may not all be there yet
        options = config.logging
        online = options.wandb == "online"
        before = [] if online else offline_rows(own, identity)
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
        self._last = self._run.step - 1 if online else max((row["_step"] for row in before), default=0)
        for row in read_metrics(folder):
            known = {name: value for name, value in row.items() if name != "step" and _is_number(value)}
            self.scalars(row["step"], known)

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


def _is_number(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
