"""Published scores with the protocol they were measured by, and numbers as people read them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from ditask_jax.reports.rows import text
from ditask_jax.reports.runs import Run
from ditask_jax.tasks import Task

# What tables and texts about runs share: units of tasks, numbers as people read them.


def score_text(task: Task, value: float | None) -> str:
    """A primary score without its unit."""
    return "–" if value is None else f"{value * task.shown_unit[0]:.2f}"


def task_header(task: Task) -> str:
    """`semseg mIoU ↑ (%)`."""
    unit = task.shown_unit[1]
    return f"{task.name} {task.primary_metric} {'↑' if task.higher_is_better else '↓'}" + (f" ({unit})" if unit else "")


def signed(value: float | None) -> str:
    """Per cent with its sign.

    >>> signed(-0.5), signed(None)
    ('−0.50', '–')
    """
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def count(value: int | None) -> str:
    """A whole number with separators."""
    return "–" if value is None else f"{value:,}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(3.2), duration(75), duration(90000)
    ('3.2 s', '1 min 15 s', '25 h 0 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# Published scores, kept as data with the protocol they were measured by, and how a run's protocol differs.


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
      method: as its authors call it.
      pretraining: data that the backbone was trained on before.
      scores: of the primary metric, by task; fractions, degrees, metres.
      delta_m: per cent, as printed; None where no reference is known.
      source: where it stands.
      trainable_backbone_millions, trainable_total_millions: as printed; None where not.
      note: what one must know.
    """

    method: str
    pretraining: str
    scores: Mapping[str, float]
    delta_m: float | None
    source: str
    trainable_backbone_millions: float | None = None
    trainable_total_millions: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Published:
    """The published rows of a data set.

    Attributes:
      title: what was measured.
      protocol: `data`, `backbone`, `image_size`, `examples`, `eval_resolution`, `tasks`, and `text`, in words.
      rows: the table.
    """

    title: str
    protocol: Mapping[str, Any]
    rows: tuple[PublishedRow, ...]

    def rows_of(self, tasks: Sequence[str]) -> list[PublishedRow]:
        """Rows that have a score of any of these tasks."""
        return [row for row in self.rows if any(task in row.scores for task in tasks)]

    def differences(self, run: Run) -> list[str]:
        """In what a run does not follow the protocol; a score of such a run cannot be set beside the rows as it is."""
        wanted, config = self.protocol, run.config
        examples = None if run.evaluation is None else run.evaluation.get("examples")
        here = {
            "image_size": config.image_size,
            "examples": examples,
            "eval_resolution": config.eval_resolution,
            "backbone": config.backbone.name,
        }
        words = {
            "image_size": "pixels of a side",
            "examples": "images scored",
            "eval_resolution": "resolution of the labels",
            "backbone": "backbone",
        }
        found = [
            f"{words[name]}: {text(value)} here, {text(wanted[name])} there"
            for name, value in here.items()
            if wanted[name] is not None and value != wanted[name]
        ]
        if config.backbone.weights is None:
            found.append("start: random weights here, pre-trained ones there")
        if set(run.task_names) != set(wanted["tasks"]):
            found.append(f"tasks: {' '.join(run.task_names)} here, {' '.join(wanted['tasks'])} there")
        if run.step is not None and config.total_steps is not None and run.step < config.total_steps:
            found.append(f"not trained to its end: step {run.step} of {config.total_steps}")
        return found


def published(dataset: str) -> Published | None:
    """The published rows of a data set; None where there are none.

    >>> published("pascal").rows[0].delta_m, published("scenes")
    (0.0, None)
    """
    file = resources.files("ditask_jax.reports") / "published" / f"{dataset}.json"
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    rows = tuple(PublishedRow(**row) for row in content["rows"])
    return Published(content["title"], content["protocol"], rows)
