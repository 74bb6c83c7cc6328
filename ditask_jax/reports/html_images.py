"""The images and curves of a report."""

import base64
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ditask_jax.errors import CheckpointError
from ditask_jax.plots.example_images import read_examples
from ditask_jax.reports.markup import Markup, fold, tag
from ditask_jax.reports.runs import Run
from ditask_jax.tasks import Task
from ditask_jax.training.run_folder import RunDir

# Pictures of runs in a page: a slider over images, a switch per task; input, target and every run's prediction.


_KINDS = {".png": "image/png", ".jpg": "image/jpeg"}


def pictures_section(
    runs: Sequence[Run], names: Mapping[int, str], tasks: Sequence[Task], dataset: str, most: int
) -> Markup | None:
    """Pictures of the runs on one data set; None where no run has any.

    Args:
      runs: of that data set.
      names: of the runs, by `id`.
      tasks: of any of the runs, in order.
      dataset: its name.
      most: so many images at the most.

    Raises:
      CheckpointError: a picture is missing.
    """
    lists = [(run, found) for run in runs if (found := read_examples(RunDir(run.path).examples)) is not None]
    by_index = [(run, {entry["index"]: entry for entry in found["examples"]}) for run, found in lists]
    indices = list(dict.fromkeys(index for _, entries in by_index for index in entries))[:most]
    absent = [names[id(run)] for run in runs if run not in [other for other, _ in lists]]
    missing = None
    if absent:
        missing = tag("p", f"No pictures of {', '.join(absent)}; ", tag("code", "python -m ditask_jax.evaluate"),
                      " writes them.", class_="quiet")  # fmt: skip
    if not indices:
        return missing
    shown = [task for task in tasks if any(task.name in run.task_names for run, _ in by_index)]
    examples = [_example(k, index, by_index, names, shown) for k, index in enumerate(indices)]
    return tag(
        "section",
        tag("h3", dataset),
        missing,
        _controls(len(indices), shown, dataset),
        tag("div", examples, class_="examples"),
        fold("What the colours say", [_key(task) for task in shown]),
        class_="pictures",
        data_pictures=True,
    )


def _controls(images: int, tasks: Sequence[Task], dataset: str) -> Markup:
    slider = tag("input", type="range", min=1, max=images, value=1, step=1, class_="which", disabled=images < 2)
    picture = tag("label", tag("span", "Picture"), slider, tag("output", f"1 of {images}"), class_="slider")
    switches = [
        tag("label", tag("input", type="checkbox", role="switch", checked=True, data_task=task.name), task.name)
        for task in tasks
    ]
    chosen = tag("fieldset", tag("legend", "Tasks"), switches)
    return tag("form", picture, chosen, class_="controls", aria_label=f"Which pictures of {dataset} to show")


def _example(
    number: int, index: int, runs: Sequence[tuple[Run, Mapping[int, Any]]], names: Mapping[int, str],
    tasks: Sequence[Task],
) -> Markup:  # fmt: skip
    having = [(run, entries[index]) for run, entries in runs if index in entries]
    run, first = having[0]
    blocks = [_figure(RunDir(run.path).examples / first["input"], "input", "", f"input, example {index}")]
    found = [_task(task, index, having, names) for task in tasks]
    return tag(
        "div",
        tag("p", f"Validation example {index}", class_="quiet"),
        tag("div", tag("div", blocks, class_="input"), tag("div", found, class_="blocks"), class_="example-row"),
        class_="example",
        data_example=number,
        hidden=number > 0,
    )


def _task(task: Task, index: int, having: Sequence[tuple[Run, Any]], names: Mapping[int, str]) -> Markup:
    return tag(
        "div",
        tag("h4", task.name),
        tag("div", list(_task_figures(task, index, having, names)), class_="figures"),
        class_="task",
        data_task=task.name,
    )


def _task_figures(
    task: Task, index: int, having: Sequence[tuple[Run, Any]], names: Mapping[int, str]
) -> Iterator[Markup]:
    target = False
    for run, entry in having:
        found = entry["tasks"].get(task.name)
        if found is None:
            continue
        folder = RunDir(run.path).examples
        for kind in ("prediction",) if target else ("target", "prediction"):
            title = "target" if kind == "target" else names[id(run)]
            picture = found[kind]
            alternative = f"{task.name} of example {index}: {title}"
            yield _figure(folder / picture["file"], title, picture.get("caption", ""), alternative)
        target = True


def _figure(path: Path, title: str, caption: str, alternative: str) -> Markup:
    words = [title, tag("br"), tag("b", caption)] if caption else title
    return tag("figure", tag("img", src=data_uri(path), alt=alternative), tag("figcaption", words))


def data_uri(path: Path) -> str:
    """A picture file as the address of itself.

    Raises:
      CheckpointError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"report: '{path}' cannot be read ({error.strerror}); write the run's pictures again by "
            "python -m ditask_jax.evaluate"
        ) from None
    return f"data:{_KINDS[path.suffix]};base64,{base64.b64encode(content).decode('ascii')}"


def _key(task: Task) -> Markup | None:
    words, fields = task.colour_words(), [swatch for swatch in task.colour_key() if len(swatch.colours) == 1]
    title = [tag("b", task.name), f": {words}" if words else None]
    if not fields:
        return tag("p", title) if words else None
    swatches = []
    for field in fields:
        colour = "rgb({}, {}, {})".format(*field.colours[0])
        swatches.append(tag("li", tag("span", class_="swatch", style=f"background: {colour}"), field.text))
    return tag("div", title, tag("ul", swatches, class_="key"))


# Loss, score and schedule curves of runs in a page, a chart per quantity with all runs in it.


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


# Line charts as SVG inside a page: they take the page's colours, light or dark, and need no script.


WIDTH, HEIGHT = 360, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 10, 34
_TICKS = 5
_MOST_POINTS = 240
_DOTS_UP_TO = 12


@dataclasses.dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
      name: of the run.
      style: number of its colour and dashes.
      steps, values: its points; steps rise.
    """

    name: str
    style: int
    steps: Sequence[float]
    values: Sequence[float]


def line_chart(title: str, lines: Sequence[Line], unit: str = "") -> Markup | None:
    """A figure with one chart; None where no line has two points.

    Lines of very many points are drawn as means of neighbours, with everything between smallest and largest shaded.

    Args:
      title: of the vertical axis and of the figure.
      lines: what to draw.
      unit: of the values.
    """
    lines = [line for line in lines if len(line.steps) > 1]
    if not lines:
        return None
    ticks_x = _ticks(min(line.steps[0] for line in lines), max(line.steps[-1] for line in lines), whole=True)
    low = min(min(line.values) for line in lines)
    high = max(max(line.values) for line in lines)
    ticks_y = _ticks(low, high)
    place = _Frame(
        (min(line.steps[0] for line in lines), max(line.steps[-1] for line in lines)),
        (min(ticks_y[0], low), max(ticks_y[-1], high)),
    )
    drawn = [_axes(place, ticks_x, ticks_y), [_drawn(place, line) for line in lines]]
    last = "; ".join(f"{line.name}: {line.values[-1]:.4g}" for line in lines)
    picture = tag(
        "svg",
        tag("title", f"{title} by step, at the end {last}"),
        *drawn,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="chart",
    )
    caption = tag("figcaption", title, tag("span", f" ({unit})", class_="quiet") if unit else None)
    return tag("figure", caption, picture, class_="chart-figure")


@dataclasses.dataclass(frozen=True)
class _Frame:
    """From steps and values to places in the picture."""

    steps: tuple[float, float]
    values: tuple[float, float]

    def x(self, step: float) -> float:
        low, high = self.steps
        return round(_LEFT + (step - low) / max(high - low, 1e-30) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.values
        return round(HEIGHT - _BOTTOM - (value - low) / max(high - low, 1e-30) * (HEIGHT - _TOP - _BOTTOM), 1)


def _drawn(place: _Frame, line: Line) -> Markup:
    means, bands = _thinned(list(zip(line.steps, line.values, strict=True)))
    points = " ".join(f"{place.x(step)},{place.y(value)}" for step, value in means)
    found = []
    if bands:
        upper = [f"{place.x(step)},{place.y(high)}" for step, _, high in bands]
        lower = [f"{place.x(step)},{place.y(low)}" for step, low, _ in reversed(bands)]
        found.append(tag("polygon", points=" ".join(upper + lower), class_=f"band s{line.style}"))
    found.append(tag("polyline", tag("title", line.name), points=points, class_=f"line s{line.style}"))
    if len(means) <= _DOTS_UP_TO:
        found += [tag("circle", tag("title", f"{line.name}, step {step:g}: {value:.4g}"), cx=place.x(step),
                      cy=place.y(value), r=2.5, class_=f"dot s{line.style}") for step, value in means]  # fmt: skip
    return tag("g", found)


def _thinned(points: list[tuple[float, float]]) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
    """Means of neighbours, and (step, smallest, largest) of each; no bands where all points can be drawn."""
    if len(points) <= _MOST_POINTS:
        return points, []
    size = math.ceil(len(points) / _MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means, bands = [], []
    for group in groups:
        step = sum(step for step, _ in group) / len(group)
        values = [value for _, value in group]
        means.append((step, sum(values) / len(values)))
        bands.append((step, min(values), max(values)))
    return means, bands


def _axes(place: _Frame, ticks_x: Sequence[float], ticks_y: Sequence[float]) -> Markup:
    left, right, bottom = _LEFT, WIDTH - _RIGHT, HEIGHT - _BOTTOM
    found = []
    for value in ticks_y:
        y = place.y(value)
        found.append(tag("line", x1=left, x2=right, y1=y, y2=y, class_="rule"))
        found.append(tag("text", _number(value), x=left - 6, y=y + 3.5, text_anchor="end"))
    for step in ticks_x:
        if place.steps[0] <= step <= place.steps[1]:
            x = place.x(step)
            found.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="rule"))
            found.append(tag("text", _number(step), x=x, y=bottom + 16, text_anchor="middle"))
    found.append(tag("text", "step", x=right, y=HEIGHT - 4, text_anchor="end"))
    return tag("g", found, class_="axes")


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers that span a range.

    >>> _ticks(0.013, 0.094)
    [0.0, 0.02, 0.04, 0.06, 0.08, 0.1]
    >>> _ticks(1, 3, whole=True)
    [1, 2, 3]
    """
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = (low - pad, high + pad) if not whole else (low, low + 1)
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(round(step), 1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step if whole else round(k * step, 12) for k in range(first, last + 1)]


def _number(value: float) -> str:
    """A number of an axis.

    >>> _number(0.0), _number(20000), _number(0.00005)
    ('0', '20k', '5e-05')
    """
    if abs(value) >= 10_000 and value % 100 == 0:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"
