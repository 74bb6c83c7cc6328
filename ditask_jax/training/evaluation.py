"""Scoring a model over a whole split: every example once, sums on the host, delta_m against references."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ditask_jax.adapters.plan import Plan
from ditask_jax.data import Augmentation, eval_batches
from ditask_jax.data.pipeline import widen_labels
from ditask_jax.errors import check_known
from ditask_jax.files import EVALUATION_FORMAT
from ditask_jax.labels import LabelSpec
from ditask_jax.tasks import Task, delta_m_of
from ditask_jax.tasks.base import check_sums
from ditask_jax.tasks.delta_m import is_known
from ditask_jax.training.distributed import add_up, gather, own_rows, share
from ditask_jax.training.sharding import place_batch


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of a split.

    Attributes:
      examples: how many were scored.
      scores: metric by name, by task; fractions, degrees, metres or what else the task says. The primary metric is None
        where it is unknown: nothing was labelled, or the predictions are no finite numbers.
      losses: mean unweighted loss by task; None likewise.
      delta_m: per cent, None where a task has no reference, or its score is unknown.
      references: the single-task scores it was taken against.
    """

    examples: int
    scores: Mapping[str, Mapping[str, float | None]]
    losses: Mapping[str, float | None]
    delta_m: float | None
    references: Mapping[str, float]

    def __str__(self) -> str:
        flat = {f"{task}/{name}": value for task, scores in self.scores.items() for name, value in scores.items()}
        flat = {name: "unknown" if value is None else value for name, value in flat.items()}
        return str(flat if self.delta_m is None else flat | {"delta_m": self.delta_m})

    def to_json(self) -> dict:
        """Plain data for `evaluation.json`."""
        return dataclasses.asdict(self)

    def metrics(self) -> dict[str, float | None]:
        """A row of `metrics.jsonl`; None is unknown."""
        named = {f"val/tasks/{t}/{m}": v for t, scores in self.scores.items() for m, v in scores.items()}
        named |= {f"val/tasks/{t}/loss": value for t, value in self.losses.items()}
        return named if self.delta_m is None else named | {"val/delta_m": self.delta_m}


def evaluate(
    eval_step: Callable,
    state: tuple,
    source,
    tasks: Sequence[Task],
    image_size,
    batch_size: int,
    mesh: Mesh,
    references: Mapping[str, float],
    threads: int = 2,
    augmentation: Augmentation | None = None,
    original_size: bool = False,
) -> Evaluation:
    """Runs `eval_step` over every example of a source.

    Args:
      eval_step: see `make_eval_step`.
      state: (trainable, stats, frozen) on the mesh.
      source: the split.
      tasks: what to score.
      image_size: of the network.
      batch_size: over all devices.
      mesh: where batches go.
      references: single-task scores by task name.
      threads: reading threads.
      augmentation: how images and labels are prepared; nothing of it is random here.
      original_size: score against labels of their own size, with logits resized to it, in place of labels resized to
        the network's size.
    """
    totals: dict[str, dict | None] = {task.name: None for task in tasks}
    losses, batches = dict.fromkeys(totals, 0.0), 0
    specs = [task.label_spec for task in tasks]
    batches_of = eval_batches(
        source,
        specs,
        image_size,
        batch_size,
        threads=threads,
        augmentation=augmentation,
        original_size=original_size,
        **share(),
    )

    def count(batch: Mapping, found: tuple) -> None:
        sums, loss, decoded = jax.device_get(found)
        for task in tasks:
            for part in _host_sums(task, decoded[task.name], batch) if task.on_host else [sums[task.name]]:
                totals[task.name] = task.accumulate(totals[task.name], part)
            losses[task.name] += float(loss[task.name])

    with batches_of as iterator:
        pending: list[tuple] = []
        for batch in iterator:
            batch = _of_one_size(batch, specs)
            placed = place_batch({name: batch[name] for name in _ON_DEVICE if name in batch}, mesh)
            # The device computes on this batch while the host counts the one before.
            pending.append((batch, eval_step(*state, placed)))
            if len(pending) > 1:
                count(*pending.pop(0))
            batches += 1
        for rest in pending:
            count(*rest)
    if jax.process_count() > 1:
        # Sums from the device are of all processes already, those taken on the host of its own rows.
        totals |= {task.name: add_up(totals[task.name]) for task in tasks if task.on_host}
    found = {task.name: task.finalize(totals[task.name]) for task in tasks}
    scores = {task.name: {task.primary_metric: None} | found[task.name] for task in tasks}
    mean = {name: value / max(batches, 1) for name, value in losses.items()}
    # Without a label a loss is exactly 0, which says as little as a score would.
    mean = {name: value if is_known(value) and (value or found[name]) else None for name, value in mean.items()}
    delta = delta_m_of(tasks, scores, references)
    used = {task.name: references[task.name] for task in tasks if task.name in references}
    return Evaluation(len(source), scores, mean, delta, used)


def _of_one_size(batch: Mapping, specs: Sequence[LabelSpec]) -> Mapping:
    """Makes label maps of their own size as large as those of the other processes: parts of one array fit together."""
    if jax.process_count() == 1 or "size" not in batch:
        return batch
    maps = [spec for spec in specs if spec.is_map]
    here = np.array([batch["labels"][spec.name].shape[1:3] for spec in maps[:1]])
    return batch | {"labels": widen_labels(batch["labels"], maps, gather(here).max((0, 1)).tolist())}


def _host_sums(task: Task, predicted: np.ndarray, batch: Mapping) -> Iterator[Mapping]:
    """Sums of a task scored on the host, of this process's rows; map by map where each has its own size."""
    predicted, label, valid = own_rows(predicted), batch["labels"][task.name], batch["valid"]
    if "size" not in batch or not task.is_map:
        sums = task.host_sums(predicted, label, valid)
        check_sums(task, sums, len(label))
        yield sums
        return
    for k, (height, width) in enumerate(batch["size"]):
        one = slice(k, k + 1)
        sums = task.host_sums(predicted[one, :height, :width], label[one, :height, :width], valid[one])
        check_sums(task, sums, 1)
        yield sums


_ON_DEVICE = ("image", "labels", "valid", "size")


def scores_record(evaluation: Evaluation, step: int, config: ConfigDict, plan: Plan) -> dict[str, Any]:
    """The content of `evaluation.json`: scores, how they were measured, and what was trained.

    Args:
      evaluation: of the validation split.
      step: steps trained before.
      config: of the run.
      plan: of its model.
    """
    size = config.image_size
    size = f"{size}x{size}" if isinstance(size, int) else f"{size[0]}x{size[1]}"
    original = config.eval_resolution == "original"
    resolution = f"original resolution, logits resized from {size}" if original else f"network resolution {size}"
    return {
        "format": EVALUATION_FORMAT,
        "step": step,
        "split": "val",
        "data": config.data.name,
        "protocol": f"{resolution}, all examples, metrics pooled",
        "method": plan.method,
        "trainable_backbone": plan.trainable_backbone,
        "trainable_total": plan.trainable_total,
        "total": plan.total,
        "groups": dict(plan.groups),
        **evaluation.to_json(),
    }


def score_table(evaluation: Evaluation, tasks: Sequence[Task]) -> str:
    """The scores as aligned text, one line per task and delta_m last."""
    rows = [("task", "metric", "score", "single-task", "gain")]
    scores = {task.name: evaluation.scores[task.name].get(task.primary_metric) for task in tasks}
    for task in tasks:
        score = scores[task.name]
        reference = evaluation.references.get(task.name)
        shown = "unknown" if score is None else task.score_text(score)
        gain = "-"
        if score is not None and reference:
            sign = 1 if task.higher_is_better else -1
            gain = f"{sign * 100 * (score - reference) / reference:+.2f} %"
        known = "-" if reference is None else task.score_text(reference)
        rows.append((task.name, task.primary_metric, shown, known, gain))
    delta = f"unknown ({_missing(evaluation, scores)})"
    if evaluation.delta_m is not None:
        delta = f"{evaluation.delta_m:+.2f} %"
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"delta_m over {evaluation.examples} examples: {delta}"])


def _missing(evaluation: Evaluation, scores: Mapping[str, float | None]) -> str:
    """Why delta_m is unknown."""
    unscored = [name for name, score in scores.items() if score is None]
    unreferenced = [name for name in scores if name not in evaluation.references]
    if len(scores) == 1:
        return "no score" if unscored else "no reference"
    reasons = {"score": unscored, "reference": unreferenced}
    return "; ".join(f"no {what} of {' '.join(names)}" for what, names in reasons.items() if names)


def predictions(predict: Callable, state: tuple, batch: Mapping, tasks: Sequence[Task]) -> dict[str, np.ndarray]:
    """Decoded predictions of one host batch, by task."""
    trainable, stats, frozen = state
    logits = predict(trainable, frozen, stats, batch["image"])
    return {task.name: np.asarray(task.decode(logits[task.name])) for task in tasks}


def check_best_metric(name: str | None, evaluation: Evaluation) -> None:
    """A name that no evaluation gives would keep no checkpoint, without a word."""
    if name is None:
        return
    # Metrics of a task without a score, and delta_m with them, are unknown this time and may be there the next.
    unscored = [task for task, scores in evaluation.scores.items() if None in scores.values()]
    if unscored and (name == "val/delta_m" or name.startswith(tuple(f"val/tasks/{task}/" for task in unscored))):
        return
    check_known("config: checkpoint.best_metric", name, evaluation.metrics())
