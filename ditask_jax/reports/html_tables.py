"""The tables of a report: scores, parameters, hardware and time, configuration."""

from collections.abc import Mapping, Sequence
from typing import Any

from ditask_jax.reports.html_images import line_sample
from ditask_jax.reports.markup import Markup, fold, table, table_row, tag
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
from ditask_jax.training.run_folder import read_starts

# Tables about runs in a page: what they are, what trains in them, hardware and time, configuration.


_GROUPS = {
    "patch_embed": "patch embedding",
    "norms": "norms",
    "relative_position_bias_table": "relative-position tables",
    "positions": "position embeddings and class token",
    "reduction": "patch merging",
    "convolutions": "convolutions",
    "adapter shared": "adapters, shared by all tasks",
    "adapter task": "adapters, per task",
    "linears": "dense layers",
    "necks": "necks",
    "heads": "heads",
}


def overview(runs: Sequence[Run], names: Sequence[str]) -> Markup:
    """A row per run."""
    header = ["run", "method", "data", "backbone", "weights", "seed", "steps", "delta_m ↑ (%)", "trains, backbone"]
    rows = []
    for k, (run, name) in enumerate(zip(runs, names, strict=True)):
        config = run.config
        weights = "random" if config.backbone.weights is None else str(config.backbone.weights).rpartition("/")[2]
        steps = run.step if run.step is not None else (run.rows[-1]["step"] if run.rows else 0)
        cells = [run.method, f"{run.dataset}: {' '.join(run.task_names)}", config.backbone.name, weights]
        numbers = [str(run.seed), count(steps), signed(run.delta_m), count(run.trainable_backbone)]
        rows.append([[line_sample(k), name], *cells, *numbers])
    return table("Lines and colours are those of the curves", header, rows, left=5)


def parameters(runs: Sequence[Run], names: Sequence[str]) -> Markup:
    """What trains, by group."""
    plans = [_plan(run) for run in runs]
    rows: list[Any] = []
    for group, words in _GROUPS.items():
        if any(plan["groups"].get(group) for plan in plans):
            rows.append([words, *(count(plan["groups"].get(group, 0)) for plan in plans)])
    for key, words in (
        ("trainable_backbone", "trains in the backbone"),
        ("trainable_total", "trains, with necks and heads"),
        ("total", "all numbers of the model"),
    ):
        rows.append(table_row([words, *(count(plan[key]) for plan in plans)], class_="sum"))
    return table("Trainable parameters by group", ["group", *names], rows)


def _plan(run: Run) -> Mapping[str, Any]:
    """As the evaluation recorded it; planned again for runs that were evaluated before it did."""
    evaluation = run.evaluation or {}
    if isinstance(evaluation.get("groups"), dict):
        return evaluation
    plan = describe_plan(run.config)
    names = ("trainable_backbone", "trainable_total", "total")
    return {"groups": dict(plan.groups), **{name: getattr(plan, name) for name in names}}


def hardware_and_time(runs: Sequence[Run], names: Sequence[str]) -> Markup:
    """What every run was trained on and how long it took."""
    found = [_spent(run) for run in runs]
    labels = list(dict.fromkeys(label for entry in found for label in entry))
    rows = [[label, *(entry.get(label, "–") for entry in found)] for label in labels]
    note = (
        "Times are those of training steps and of waiting for their batches, without evaluations and saving; medians "
        "leave out the first step, which compiles."
    )
    return tag(
        "div",
        table("Machine of the last start, and time over all steps", ["", *names], rows, left=99),
        tag("p", note, class_="quiet"),
    )


def _spent(run: Run) -> dict[str, str]:
    found: dict[str, str] = {}
    starts = read_starts(run.path)
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


def configuration(runs: Sequence[Run], names: Sequence[str]) -> Markup:
    """Fields with another value than the default or than in another run, and behind a fold all of them."""
    defaults = default_fields()
    fields = [run.fields for run in runs]
    all_names = sorted({name for entry in fields for name in entry})
    told = [name for name in all_names if _stands_out(name, fields, defaults)]
    header = ["field", "default", *names]
    rows = lambda chosen: [_field_row(name, fields, defaults) for name in chosen]
    few = table("Fields that differ from the defaults, or between the runs", header, rows(told), left=99)
    return tag("div", few, fold("All fields", table("The whole configuration", header, rows(all_names), left=99)))


def _stands_out(name: str, fields: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> bool:
    values = {repr(entry.get(name)) for entry in fields}
    return len(values) > 1 or (name in defaults and values != {repr(defaults[name])}) or name not in defaults


def _field_row(name: str, fields: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> list:
    default = defaults.get(name)
    cells = [text(entry[name]) if name in entry else "–" for entry in fields]
    marked = [
        tag("b", cell) if name in entry and entry[name] != default else cell
        for cell, entry in zip(cells, fields, strict=True)
    ]
    return [tag("code", name), text(default) if name in defaults else "–", *marked]


# The scores of runs in a page: beside the single-task references and published rows, with the protocol named.


def scores_section(runs: Sequence[Run], names: Mapping[int, str], tasks: Sequence[Task], dataset: str) -> Markup:
    """The scores of all runs on one data set.

    Args:
      runs: of that data set.
      names: of the runs, by `id`.
      tasks: of any of the runs, in order.
      dataset: its name.
    """
    known = published(dataset)
    references = load_references(dataset)
    header = ["method", "pre-training", *map(task_header, tasks), "delta_m ↑ (%)", "trains (M): backbone", "total"]
    rows: list[Markup | list] = [_run_row(run, names[id(run)], tasks) for run in runs]
    others = [] if known is None else known.rows_of([task.name for task in tasks])
    if known is None and references:
        cells = [score_text(task, references.get(task.name)) for task in tasks]
        rows.append(["single task, full fine-tuning", "", *cells, signed(0.0), "", ""])
    rows += [_published_row(row, tasks) for row in others]
    return tag(
        "section",
        tag("h3", dataset),
        table("Whole validation split; the runs stand first", header, rows, left=2),
        _published_notes(known, others) if known is not None else _no_published(dataset, bool(references)),
        [_protocol_of(run, names[id(run)], known) for run in runs],
        fold("Every metric", *(_all_metrics(run, names[id(run)]) for run in runs if run.evaluation is not None)),
    )


def _run_row(run: Run, name: str, tasks: Sequence[Task]) -> Markup:
    own = {task.name: task for task in run.tasks}
    cells = [score_text(task, run.primary(task) if task.name in own else None) for task in tasks]
    weights = run.config.backbone.weights
    start = "none" if weights is None else str(weights).rpartition("/")[2]
    sizes = [_millions(run.trainable_backbone), _millions(run.trainable_total)]
    return table_row([tag("b", name), start, *cells, signed(run.delta_m), *sizes], left=2, class_="own")


def _millions(numbers: int | None) -> str:
    return "–" if numbers is None else f"{numbers / 1e6:.3f}"


def _published_row(row: PublishedRow, tasks: Sequence[Task]) -> list:
    cells = [score_text(task, row.scores.get(task.name)) for task in tasks]
    sizes = [
        "–" if size is None else f"{size:.2f}"
        for size in (row.trainable_backbone_millions, row.trainable_total_millions)
    ]
    mark = tag("abbr", "*", title=row.note) if row.note else None
    # Hyphens that do not break.
    return [[row.method, mark], row.pretraining.replace("-", "\u2011"), *cells, signed(row.delta_m), *sizes]


def _published_notes(known: Published, rows: Sequence[PublishedRow]) -> Markup:
    sources: dict[str, list[str]] = {}
    for row in rows:
        sources.setdefault(row.source, []).append(row.method)
    noted = [f"{row.method} ({row.pretraining}): {row.note}." for row in rows if row.note]
    return fold(
        f"Published rows: {known.title}, their protocol and where they stand",
        tag("p", known.protocol["data"], "."),
        tag("ul", [tag("li", line) for line in known.protocol["text"]]),
        tag("p", "Notes (*) on rows:"),
        tag("ul", [tag("li", line) for line in noted]),
        tag("p", "Sources:"),
        tag("ul", [tag("li", f"{source}: {', '.join(methods)}") for source, methods in sources.items()]),
    )


def _no_published(dataset: str, referenced: bool) -> Markup:
    text = f"No published scores of {dataset} are known."
    if referenced:
        text += " The last row holds the single-task scores that delta_m is taken against"
        source = reference_source(dataset)
        text += f" ({source}): runs of other sizes, lengths or data cannot be set beside it." if source else "."
    return tag("p", text, class_="quiet")


def _protocol_of(run: Run, name: str, known: Published | None) -> Markup:
    if run.evaluation is None:
        return tag("p", tag("b", name), ": not evaluated yet.")
    protocol = run.evaluation.get("protocol", "protocol not recorded")
    text = f": {protocol}, {count(run.evaluation.get('examples'))} pictures, after {count(run.step)} steps."
    different = [] if known is None else known.differences(run)
    if not different:
        return tag("p", tag("b", name), text, " Scored as published." if known is not None else None)
    return tag(
        "div",
        tag("p", tag("b", name), text, " Its scores cannot be set beside the published rows as they are:"),
        tag("ul", [tag("li", line) for line in different]),
        class_="note",
    )


def _all_metrics(run: Run, name: str) -> Markup:
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
    return table(f"{name}: every metric, shares as fractions, all else in its unit", header, rows, left=2)
