"""A progress bar on the error stream, on a terminal only."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yields `update(part, done, total)`: a part's bar appears when it is first named.

    >>> with progress_bar("reading") as update:
    ...     update("train", 1, 2)
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[str, int] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def update(part: str, done: int, total: int) -> None:
            if part not in bars:
                bars[part] = progress.add_task(f"{label} {part}", total=total)
            progress.update(bars[part], completed=done, total=total)

        yield update
