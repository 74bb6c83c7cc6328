"""Pictures of runs in a page: a slider over images, a switch per task; input, target and every run's prediction."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ditask_jax.errors import CheckpointError
from ditask_jax.reports.markup import Markup, fold, tag
from ditask_jax.reports.runs import Run
from ditask_jax.tasks import Task
from ditask_jax.training.examples import read_examples
from ditask_jax.training.rundir import RunDir

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
