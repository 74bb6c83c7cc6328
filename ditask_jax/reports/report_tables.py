"""The tables of a report as texts, for its templates: runs, scores, parameters, hardware and time, configuration."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ditask_jax.hub.addresses import HubAddress, is_hub
from ditask_jax.reports.drawing import all_tasks
from ditask_jax.reports.published import (
    Published,
    PublishedRow,
    count,
    duration,
    published,
    score_text,
    signed,
    task_header,
)
from ditask_jax.reports.rows import text
from ditask_jax.reports.runs import Run, default_fields
from ditask_jax.tasks import Task, load_references
from ditask_jax.tasks.delta_m import reference_source
from ditask_jax.training.experiment import describe_plan
from ditask_jax.training.run_folder import read_launches

_GROUPS = {
    "patch_embed": "patch embedding",
    "norms": "norms",
    "relative_position_bias_table": "relative-position tables",
    "positions": "position embeddings, class token and registers",
    "layer_scale": "LayerScale",
    "reduction": "patch merging",
    "convolutions": "convolutions",
    "adapter shared": "adapters, shared by all tasks",
    "adapter task": "adapters, per task",
    "linears": "dense layers",
    "necks": "necks",
    "heads": "heads",
}
_SUMS = {
    "trainable_backbone": "trains in the backbone",
    "trainable_total": "trains, with necks and heads",
    "total": "all parameters of the model",
}
# Runs with the names that a page gives them.
Named = Sequence[tuple[Run, str]]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
      caption: what it shows.
      header: of every column.
      rows: cells; the first of a row is its header.
      left: so many columns are text, the others numbers.
      sums: so many rows at the end are sums of those above.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    sums: int = 0


def overview(runs: Named) -> Table:
    """A row per run."""
    header = ["run", "method", "data", "backbone", "weights", "seed", "steps", "delta_m ↑ (%)", "trains, backbone"]
    rows = []
    for run, name in runs:
        steps = run.step if run.step is not None else (run.rows[-1]["step"] if run.rows else 0)
        data = f"{run.dataset}: {' '.join(run.task_names)}"
        cells = [name, run.method, data, run.config.backbone.name, _weights(run, "random"), str(run.seed)]
        rows.append([*cells, count(steps), signed(run.delta_m), count(run.trainable_backbone)])
    return Table("Lines and colours are those of the curves", header, rows, left=5)


def _weights(run: Run, none: str) -> str:
    weights = run.config.backbone.weights
    if is_hub(weights):
        return HubAddress.parse(weights).name
    return none if weights is None else str(weights).rpartition("/")[2]


def parameters(runs: Named) -> Table:
    """What trains, by group."""
    plans = [_plan(run) for run, _ in runs]
    rows = [
        [words, *(count(plan["groups"].get(group, 0)) for plan in plans)]
        for group, words in _GROUPS.items()
        if any(plan["groups"].get(group) for plan in plans)
    ]
    sums = [[words, *(count(plan[key]) for plan in plans)] for key, words in _SUMS.items()]
    header = ["group", *(name for _, name in runs)]
    return Table("Trainable parameters by group", header, rows + sums, sums=len(sums))


def _plan(run: Run) -> Mapping[str, Any]:
    """As the evaluation recorded it; planned again for runs that were evaluated before it did."""
    evaluation = run.evaluation or {}
    if isinstance(evaluation.get("groups"), dict):
        return evaluation
    plan = describe_plan(run.config)
    return {"groups": dict(plan.groups), **{name: getattr(plan, name) for name in _SUMS}}


def hardware_and_time(runs: Named) -> Table:
    """What every run was trained on and how long it took."""
    found = [_spent(run) for run, _ in runs]
    labels = dict.fromkeys(label for entry in found for label in entry)
    rows = [[label, *(entry.get(label, "–") for entry in found)] for label in labels]
    header = ["", *(name for _, name in runs)]
    return Table("Machine of the last start, and time over all steps", header, rows, left=99)


def _spent(run: Run) -> dict[str, str]:
    found: dict[str, str] = {}
    starts = read_launches(run.path)
    if starts:
        last = starts[-1]
        kinds = ", ".join(last.get("devices") or ["unknown"])
        found["devices"] = f"{last.get('device_count')} × {kinds}"
        found["processes"] = str(last.get("processes"))
        found["processor of the first process"] = f"{last.get('processor')}, {last.get('cores')} cores"
        versions = last.get("versions") or {}
        found["software"] = ", ".join([f"Python {last.get('python')}", *(f"{k} {v}" for k, v in versions.items())])
        found["started"] = f"{starts[0].get('time')}" + (f", {len(starts)} times" if len(starts) > 1 else "")
    found["type of activations"] = run.config.compute_dtype
    found["images per step"] = count(run.config.batch_size)
    if run.rows:
        found["steps"] = count(run.rows[-1]["step"])
    step, reading = run.seconds_per_step, run.seconds_reading
    if step is not None:
        found["seconds per step (median)"] = f"{step:.3f}"
        found["waiting for a batch (median)"] = f"{reading or 0:.3f}"
        found["images per second"] = f"{run.config.batch_size / (step + (reading or 0)):.1f}"
    if total := sum(run.series("time/step")[1]) + sum(run.series("time/read")[1]):
        found["time in steps"] = duration(total)
    if run.peak_memory is not None:
        found[f"peak memory of the {run.memory_kind}"] = f"{run.peak_memory / 1e9:.2f} GB"
    return found


def configuration(runs: Named) -> list[dict]:
    """Every field with its default and its values; `stands_out` where these are not all the default, or differ."""
    defaults, fields = default_fields(), [run.fields for run, _ in runs]
    found = []
    for name in sorted({name for entry in fields for name in entry}):
        default, values = defaults.get(name), {repr(entry.get(name)) for entry in fields}
        shown = [(text(one[name]) if name in one else "–", name in one and one[name] != default) for one in fields]
        found.append(
            {
                "name": name,
                "default": text(default) if name in defaults else "–",
                "values_of_runs": shown,
                "stands_out": name not in defaults or values != {repr(default)},
            }
        )
    return found


def scores(runs: Named, dataset: str) -> dict:
    """The scores of all runs on one data set, beside published rows or the single-task references.

    Args:
      runs: of that data set, with their names.
      dataset: its name.
    """
    tasks = all_tasks([run for run, _ in runs])
    known, references = published(dataset), load_references(dataset)
    beside = [] if known is None else known.rows_of([task.name for task in tasks])
    others = [(row.method, row.note, _published_cells(row, tasks)) for row in beside]
    if known is None and references:
        cells = [score_text(task, references.get(task.name)) for task in tasks]
        others = [("single task, full fine-tuning", "", ["", *cells, signed(0.0), "", ""])]
    header = ["method", "pre-training", *map(task_header, tasks), "delta_m ↑ (%)", "trains (M): backbone", "total"]
    return {
        "dataset": dataset,
        "header": header,
        "own": [_own_cells(run, name, tasks) for run, name in runs],
        "others": others,
        "published": None if known is None else _published_notes(known, beside),
        "unpublished": _unpublished(dataset, bool(references)),
        "protocols": [_protocol_of(run, name, known) for run, name in runs],
        "metrics": [_all_metrics(run, name) for run, name in runs if run.evaluation is not None],
    }


def _own_cells(run: Run, name: str, tasks: Sequence[Task]) -> list[str]:
    cells = [score_text(task, run.primary(task) if task.name in run.task_names else None) for task in tasks]
    sizes = [
        "–" if numbers is None else f"{numbers / 1e6:.3f}" for numbers in (run.trainable_backbone, run.trainable_total)
    ]
    return [name, _weights(run, "none"), *cells, signed(run.delta_m), *sizes]


def _published_cells(row: PublishedRow, tasks: Sequence[Task]) -> list[str]:
    cells = [score_text(task, row.scores.get(task.name)) for task in tasks]
    sizes = [
        "–" if size is None else f"{size:.2f}"
        for size in (row.trainable_backbone_millions, row.trainable_total_millions)
    ]
    # Hyphens that do not break.
    return [row.pretraining.replace("-", "\u2011"), *cells, signed(row.delta_m), *sizes]


def _published_notes(known: Published, rows: Sequence[PublishedRow]) -> dict:
    sources: dict[str, list[str]] = {}
    for row in rows:
        sources.setdefault(row.source, []).append(row.method)
    return {
        "title": known.title,
        "data": known.protocol["data"],
        "protocol": known.protocol["text"],
        "notes": [f"{row.method} ({row.pretraining}): {row.note}." for row in rows if row.note],
        "sources": [f"{source}: {', '.join(methods)}" for source, methods in sources.items()],
    }


def _unpublished(dataset: str, referenced: bool) -> str:
    found = f"No published scores of {dataset} are known."
    if referenced:
        found += " The last row holds the single-task scores that delta_m is taken against"
        source = reference_source(dataset)
        found += f" ({source}): runs of other sizes, lengths or data cannot be set beside it." if source else "."
    return found


def _protocol_of(run: Run, name: str, known: Published | None) -> dict:
    if run.evaluation is None:
        return {"name": name, "text": ": not evaluated yet.", "different": []}
    protocol = run.evaluation.get("protocol", "protocol not recorded")
    shown = f": {protocol}, {count(run.evaluation.get('examples'))} images, after {count(run.step)} steps."
    different = [] if known is None else known.differences(run)
    as_published = known is not None and not different
    return {"name": name, "text": shown + " Scored as published." * as_published, "different": different}


def _all_metrics(run: Run, name: str) -> Table:
    references = run.evaluation.get("references") or {}
    losses = run.evaluation.get("losses") or {}
    rows = []
    for task in run.tasks:
        reference = references.get(task.name)
        for metric, value in run.scores.get(task.name, {}).items():
            main = metric == task.primary_metric
            score = run.primary(task)
            gain = None
            if main and reference and score is not None:
                gain = (1 if task.higher_is_better else -1) * 100 * (score - reference) / reference
            shown = "–" if not isinstance(value, int | float) else f"{value:.5g}"
            single = task.score_text(reference) if main and reference else ""
            rows.append([task.name, metric, shown, single, signed(gain) if main else ""])
        if task.name in losses:
            loss = losses[task.name]
            rows.append([task.name, "loss", "–" if loss is None else f"{loss:.5g}", "", ""])
    header = ["task", "metric", "value", "single-task score", "gain (%)"]
    return Table(f"{name}: every metric, shares as fractions, all else in its unit", header, rows, left=2)
