"""Loss, score and schedule curves of runs in a page, a chart per quantity with all runs in it."""

from collections.abc import Iterable, Sequence

from ditask_jax.reports.line_chart import Line, line_chart
from ditask_jax.reports.markup import Markup, tag
from ditask_jax.reports.runs import Run
from ditask_jax.tasks import Task


def curves_section(runs: Sequence[Run], names: Sequence[str], tasks: Sequence[Task]) -> Markup:
    """Charts from `metrics.jsonl`; a quantity that no run has twice is left out.

    Args:
      runs, names: the runs; a line's style is its run's number.
      tasks: of any of the runs.
    """
    charts = [_chart(runs, names, title, key, factor, unit) for title, key, factor, unit in _quantities(tasks)]
    charts = [chart for chart in charts if chart is not None]
    if not charts:
        return tag("p", "No run has logged two steps.", class_="quiet")
    return tag("div", legend(names), tag("div", charts, class_="charts"))


def legend(names: Sequence[str]) -> Markup:
    """Which line is whose."""
    return tag("ul", [tag("li", line_sample(k), name) for k, name in enumerate(names)], class_="legend")


def line_sample(style: int) -> Markup:
    """A short piece of a run's line."""
    line = tag("line", x1=1, x2=27, y1=5, y2=5, class_=f"line s{style}")
    return tag("svg", line, viewBox="0 0 28 10", class_="sample", aria_hidden="true")


def _quantities(tasks: Sequence[Task]) -> Iterable[tuple[str, str, float, str]]:
    """(title, key of the log, factor, unit)."""
    yield "training loss", "train/loss", 1.0, ""
    yield "delta_m", "val/delta_m", 1.0, "%"
    for task in tasks:
        factor, unit = task.shown_unit
        yield f"{task.name} {task.primary_metric}", f"val/tasks/{task.name}/{task.primary_metric}", factor, unit
    for task in tasks:
        yield f"{task.name} training loss", f"train/tasks/{task.name}/loss", 1.0, ""
    yield "learning rate", "train/learning_rate", 1.0, ""
    yield "gradient norm", "train/grad_norm", 1.0, ""


def _chart(runs: Sequence[Run], names: Sequence[str], title: str, key: str, factor: float, unit: str) -> Markup | None:
    lines = []
    for k, (run, name) in enumerate(zip(runs, names, strict=True)):
        steps, values = run.series(key)
        lines.append(Line(name, k, steps, [factor * value for value in values]))
    return line_chart(title, lines, unit)
