"""A report on runs as one HTML page that needs nothing besides itself; its templates are in `page/`."""

import base64
import datetime
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ditask_jax.errors import CheckpointError, ConfigError
from ditask_jax.plots.curves import CHART_STYLES, Curves, dash_array, draw_chart
from ditask_jax.plots.example_images import read_examples
from ditask_jax.reports.drawing import all_tasks
from ditask_jax.reports.report_tables import (
    Named,
    configuration,
    hardware_and_time,
    overview,
    parameters,
    scores,
)
from ditask_jax.reports.runs import Run, run_names
from ditask_jax.tasks import Task
from ditask_jax.training.run_folder import RunDir

_KINDS = {".png": "image/png", ".jpg": "image/jpeg"}


def report_page(runs: Sequence[Run], title: str | None = None, most_images: int = 8) -> str:
    """The page.

    Args:
      runs: at least one, as `find_runs` reads them; those without an evaluation have no scores.
      title: heading; None: one from the names of the runs.
      most_images: images per data set at the most.

    Raises:
      ConfigError: more runs than can be told apart.
      CheckpointError: an image of a run is missing.
    """
    if not 1 <= len(runs) <= CHART_STYLES:
        raise ConfigError(
            f"report: got {len(runs)} runs, expected 1 to {CHART_STYLES}; python -m ditask_jax.compare takes more"
        )
    names = run_names(runs)
    named = list(zip(runs, names, strict=True))
    groups: dict[str, list[tuple[Run, str]]] = {}
    for run, name in named:
        groups.setdefault(run.dataset, []).append((run, name))
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("ditask_jax.reports", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template("report.html").render(
        title=title or f"ditask_jax: {', '.join(names)}",
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=_version(),
        names=names,
        dashes=[dash_array(style) for style in range(CHART_STYLES)],
        overview=overview(named),
        scores=[scores(group, dataset) for dataset, group in groups.items()],
        images=[_images(group, dataset, most_images) for dataset, group in groups.items()],
        charts=_charts(named, all_tasks(runs)),
        parameters=parameters(named),
        hardware=hardware_and_time(named),
        fields=configuration(named),
    )


def _version() -> str:
    try:
        return metadata.version("ditask-jax")
    except metadata.PackageNotFoundError:
        import ditask_jax

        return ditask_jax.__version__


# Images: a slider over examples, a switch per task; input, target and every run's prediction.


def _images(runs: Named, dataset: str, most: int) -> dict[str, Any]:
    """The images of the runs on one data set.

    Args:
      runs: of that data set, with their names.
      dataset: its name.
      most: so many examples at the most.
    """
    lists = [(run, name, read_examples(RunDir(run.path).examples)) for run, name in runs]
    having = [
        (run, name, {entry["index"]: entry for entry in found["examples"]})
        for run, name, found in lists
        if found is not None
    ]
    numbers = list(dict.fromkeys(number for *_, entries in having for number in entries))[:most]
    tasks = all_tasks([run for run, *_ in having])
    return {
        "dataset": dataset,
        "absent": [name for _, name, found in lists if found is None],
        "tasks": [task.name for task in tasks],
        "examples": [_example(number, having, tasks) for number in numbers],
        "keys_of_tasks": [key for task in tasks if (key := _key(task)) is not None],
    }


def _example(number: int, runs: Sequence[tuple[Run, str, Mapping]], tasks: Sequence[Task]) -> dict[str, Any]:
    found = [(RunDir(run.path).examples, name, entries[number]) for run, name, entries in runs if number in entries]
    folder, _, first = found[0]
    return {
        "number": number,
        "input": _image(folder / first["input"], "input", f"input, example {number}"),
        "tasks": [(task.name, _task_images(task.name, number, found)) for task in tasks],
    }


def _task_images(task: str, number: int, runs: Sequence[tuple[Path, str, Mapping]]) -> list[dict[str, str]]:
    """The target once, then the prediction of every run that has the task."""
    shown = []
    for folder, name, entry in runs:
        if found := entry["tasks"].get(task):
            kinds = {"prediction": name} if shown else {"target": "target", "prediction": name}
            for kind, title in kinds.items():
                alternative = f"{task} of example {number}: {title}"
                shown.append(_image(folder / found[kind]["file"], title, alternative, found[kind].get("caption", "")))
    return shown


def _image(path: Path, title: str, alternative: str, caption: str = "") -> dict[str, str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"report: '{path}' cannot be read ({error.strerror}); write the run's images again by "
            "python -m ditask_jax.evaluate"
        ) from None
    source = f"data:{_KINDS[path.suffix]};base64,{base64.b64encode(content).decode('ascii')}"
    return {"source": source, "title": title, "alt": alternative, "caption": caption}


def _key(task: Task) -> dict[str, Any] | None:
    """What the colours of a task say, in words and as swatches."""
    words, fields = task.colour_words(), [swatch for swatch in task.colour_key() if len(swatch.colours) == 1]
    if not words and not fields:
        return None
    swatches = [("rgb({}, {}, {})".format(*field.colours[0]), field.text) for field in fields]
    return {"task": task.name, "words": f": {words}" if words else "", "swatches": swatches}


# Curves: losses, scores and schedule, a chart per quantity with all runs in it.


def _charts(runs: Named, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Charts from `metrics.jsonl`; a quantity that no run has twice is left out."""
    found: list[dict[str, Any]] = []
    for title, key, factor, unit in _quantities(tasks):
        curves = []
        for run, name in runs:
            steps, values = run.series(key)
            curves.append(Curves(name, {key: (steps, [factor * value for value in values])}))
        chart = draw_chart(curves, key, f"chart{len(found)}")
        if chart is not None:
            last = [(one.name, one.series[key][1]) for one in curves]
            last = "; ".join(f"{name}: {values[-1]:.4g}" for name, values in last if len(values) > 1)
            found.append({"title": title, "unit": unit, "last": last, "svg": Markup(chart)})
    return found


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
