"""HTML from Python: tags as functions, every text escaped."""

import html
from collections.abc import Iterable, Sequence

_EMPTY = {"img", "input", "meta", "link", "br", "hr"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | int | None | Iterable["Child"]


def tag(element: str, /, *children: Child, **attributes: str | int | bool | None) -> Markup:
    """An element.

    Args:
      element: its name.
      children: texts, which are escaped; markup, which is not; lists of both; None for nothing.
      attributes: None and False leave one out, True writes it without a value. `class_` stands for `class`, other
        underscores for hyphens.

    >>> tag("p", "a < b", tag("b", "!"), class_="note", hidden=True, data_task=None)
    '<p class="note" hidden>a &lt; b<b>!</b></p>'
    """
    found = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        found.append(f" {key}" if value is True else f' {key}="{html.escape(str(value))}"')
    start = f"<{element}{''.join(found)}>"
    return Markup(start if element in _EMPTY else f"{start}{join(children)}</{element}>")


def join(children: Iterable[Child]) -> Markup:
    """Children one after another."""
    return Markup("".join(map(_text, children)))


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str | int | float):
        return html.escape(str(child), quote=False)
    return join(child)


def table(caption: str, header: Sequence[Child], rows: Iterable[Sequence[Child]], *, left: int = 1) -> Markup:
    """A table with its caption, in a frame of its own that scrolls when it is too wide.

    Args:
      caption: what the table shows.
      header: of every column.
      rows: cells; the first of a row is its header. A row may be markup, `<tr>` and all.
      left: so many columns are text, the others numbers.
    """
    head = tag("tr", [tag("th", cell, scope="col", class_=None if k < left else "n") for k, cell in enumerate(header)])
    body = [row if isinstance(row, Markup) else table_row(row, left=left) for row in rows]
    content = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", body))
    return tag("div", content, class_="scroll", tabindex=0, role="region", aria_label=caption)


def table_row(cells: Sequence[Child], *, left: int = 1, class_: str | None = None) -> Markup:
    """A row, for `table`."""
    first, *others = cells
    found = [tag("td", cell, class_=None if k < left else "n") for k, cell in enumerate(others, 1)]
    return tag("tr", tag("th", first, scope="row"), found, class_=class_)


def fold(summary: str, *children: Child) -> Markup:
    """Something that opens when it is asked for."""
    return tag("details", tag("summary", summary), children)
