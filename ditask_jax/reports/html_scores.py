"""The scores of runs in a page: beside the single-task references and published rows, with the protocol named."""

from collections.abc import Mapping, Sequence

from ditask_jax.reports.markup import Markup, fold, table, table_row, tag
from ditask_jax.reports.named import count, score_text, signed, task_header
from ditask_jax.reports.published_rows import Published, PublishedRow, published
from ditask_jax.reports.runs import Run
from ditask_jax.tasks import Task, load_references
from ditask_jax.tasks.delta_m import reference_source


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
