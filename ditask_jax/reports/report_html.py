"""A report on runs as one HTML page that needs nothing besides itself."""

import datetime
from collections.abc import Sequence
from importlib import metadata, resources

from ditask_jax.errors import ConfigError
from ditask_jax.reports.html_images import curves_section, pictures_section
from ditask_jax.reports.html_tables import configuration, hardware_and_time, overview, parameters, scores_section
from ditask_jax.reports.markup import Child, Markup, tag
from ditask_jax.reports.published import run_names
from ditask_jax.reports.runs import Run
from ditask_jax.tasks import Task

STYLES = 8
"""Colours of runs in `page.css`."""


def report_page(runs: Sequence[Run], title: str | None = None, most_pictures: int = 8) -> str:
    """The page.

    Args:
      runs: at least one, as `find_runs` reads them; those without an evaluation have no scores.
      title: heading; None: one from the names of the runs.
      most_pictures: images per data set at the most.

    Raises:
      ConfigError: more runs than can be told apart.
      CheckpointError: a run's pictures are damaged.
    """
    if not 1 <= len(runs) <= STYLES:
        raise ConfigError(
            f"report: got {len(runs)} runs, expected 1 to {STYLES}; python -m ditask_jax.compare takes more"
        )
    names = run_names(runs)
    named = {id(run): name for run, name in zip(runs, names, strict=True)}
    datasets: dict[str, list[Run]] = {}
    for run in runs:
        datasets.setdefault(run.dataset, []).append(run)
    title = title or f"ditask_jax: {', '.join(names)}"
    scores = [scores_section(group, named, _tasks(group), data) for data, group in datasets.items()]
    pictures = [pictures_section(group, named, _tasks(group), data, most_pictures) for data, group in datasets.items()]
    parts: list[tuple[str, str, Child]] = [
        ("runs", "Runs", overview(runs, names)),
        ("scores", "Scores", scores),
        ("pictures", "Pictures", pictures),
        ("curves", "Curves", curves_section(runs, names, _tasks(runs))),
        ("parameters", "Parameters", parameters(runs, names)),
        ("hardware", "Hardware and time", hardware_and_time(runs, names)),
        ("configuration", "Configuration", configuration(runs, names)),
    ]
    contents = tag("nav", [tag("a", heading, href=f"#{key}") for key, heading, _ in parts], aria_label="Contents")
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    lead = tag("p", f"Written {now} by ditask_jax {_version()}.", class_="quiet")
    sections = [tag("section", tag("h2", heading), content, id=key) for key, heading, content in parts]
    body = tag("body", tag("header", tag("h1", title), lead, contents), tag("main", sections), _script())
    return f'<!doctype html>\n<html lang="en">{_head(title)}{body}</html>\n'


def _tasks(runs: Sequence[Run]) -> tuple[Task, ...]:
    """Tasks of any run, in order of appearance."""
    return tuple({task.name: task for run in runs for task in run.tasks}.values())


def _head(title: str) -> Markup:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # Nothing may be fetched, whatever a configuration's texts say.
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
        ),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(_asset("page.css"))),
        tag("noscript", tag("style", Markup(".example[hidden] { display: block; } .controls { display: none; }"))),
    )


def _script() -> Markup:
    return tag("script", Markup(_asset("page.js")))


def _asset(name: str) -> str:
    return (resources.files("ditask_jax.reports") / "page" / name).read_text(encoding="utf-8")


def _version() -> str:
    try:
        return metadata.version("ditask-jax")
    except metadata.PackageNotFoundError:
        import ditask_jax

        return ditask_jax.__version__
