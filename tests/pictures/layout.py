"""What every figure must keep: text inside the paper, no text on other text, cells in line."""

import itertools

import numpy as np

from ditask_jax.pictures.sheet import styled

_TOUCH = 1.0  # pixels by which boxes may overlap: boxes are a little larger than their letters


@styled
def draw(figure) -> None:
    """Draws as a file is written: Matplotlib makes ticks when they are first drawn, in the style of that moment."""
    figure.canvas.draw()


def rendered(figure) -> np.ndarray:
    """The figure as pixels, uint8 [H, W, 3]."""
    draw(figure)
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def visible_texts(figure):
    """Every text of a figure that has been drawn, with its box in pixels."""
    renderer = figure.canvas.get_renderer()
    artists = [*figure.texts, figure._suptitle, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        artists += [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            artists += [label for tick in axis._update_ticks() for label in (tick.label1, tick.label2)]
            artists.append(axis.get_offset_text())
    found = {}
    for text in artists:
        if text is not None and text.get_visible() and text.get_text().strip():
            found[id(text)] = (text, text.get_window_extent(renderer))
    return list(found.values())


def overlap(a, b) -> float:
    """The smaller side of the area that two boxes share, in pixels."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return min(width, height) if width > 0 and height > 0 else 0.0


def check_text(figure) -> None:
    """No text is cut off by the paper's edge or lies on another one."""
    draw(figure)
    texts = visible_texts(figure)
    assert texts
    width, height = figure.canvas.get_width_height()
    for text, box in texts:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside, f"'{text.get_text()}' leaves the paper: {box.bounds} on {width}x{height}"
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        assert overlap(a, b) <= _TOUCH, f"'{one.get_text()}' lies on '{other.get_text()}'"


def check_plots_are_clear(figure) -> None:
    """No text but a plot's own lies on that plot, in a figure that `check_text` drew: drawing takes all the time."""
    texts = visible_texts(figure)
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        own = set(map(id, axes.texts))
        frame = axes.get_window_extent()
        for text, box in texts:
            assert id(text) in own or overlap(box, frame) <= 2, f"'{text.get_text()}' lies on a plot"


def check_grid(figure, rows: int, columns: int) -> None:
    """The first `rows * columns` axes are a grid of equal columns, in line to a hundredth of a pixel."""
    boxes = [axes.get_window_extent() for axes in figure.axes[: rows * columns]]
    assert len(boxes) == rows * columns
    for row in range(rows):
        line = boxes[row * columns : (row + 1) * columns]
        assert max(abs(box.y0 - line[0].y0) + abs(box.y1 - line[0].y1) for box in line) < 0.02
    for column in range(columns):
        line = boxes[column::columns]
        assert max(abs(box.x0 - line[0].x0) + abs(box.x1 - line[0].x1) for box in line) < 0.02
    assert max(abs(box.width - boxes[0].width) for box in boxes) < 0.02
    for a, b in itertools.combinations(boxes, 2):
        assert overlap(a, b) == 0


def inner_texts_stay_inside(figure) -> int:
    """Texts that belong to a plot lie within it; returns how many there are."""
    renderer, count = figure.canvas.get_renderer(), 0
    for axes in figure.axes:
        frame = axes.get_window_extent()
        for text in axes.texts:
            box = text.get_window_extent(renderer)
            inside = box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
            assert inside, f"'{text.get_text()}' leaves its plot"
            count += 1
    return count


def pixels_of(figure, axes) -> np.ndarray:
    """The pixels of one cell, its frame left out."""
    picture = rendered(figure)
    box = axes.get_window_extent()
    height = picture.shape[0]
    rows = slice(round(height - box.y1) + 3, round(height - box.y0) - 3)
    return picture[rows, round(box.x0) + 3 : round(box.x1) - 3]
