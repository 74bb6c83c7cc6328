"""What tables and texts about runs share: names of runs, units of tasks, numbers as people read them."""

from collections import Counter
from collections.abc import Sequence

from ditask_jax.reports.runs import Run
from ditask_jax.tasks import Task


def run_names(runs: Sequence[Run]) -> list[str]:
    """A name for every run: that of its folder, with the folder above where two are alike."""
    paths = [run.path.resolve() for run in runs]
    names = [path.name for path in paths]
    depth = 1
    while depth < max((len(path.parts) for path in paths), default=1) and max(Counter(names).values(), default=1) > 1:
        depth += 1
        count = Counter(names)
        names = [
            "/".join(path.parts[-depth:]) if count[name] > 1 else name for path, name in zip(paths, names, strict=True)
        ]
    return names


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
