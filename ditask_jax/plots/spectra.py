"""What a method does to singular values: spectra before and after, velocity fields and maps, layer by layer."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ditask_jax.plots.sheet import line_style, new_figure, styled, wrapped

_ROW = 1.75
_COLUMN = 2.55


@dataclasses.dataclass(frozen=True)
class LayerSpectra:
    """The spectra of one layer.

    Attributes:
      path: of the layer.
      before: singular values `[P, R]`, falling; P > 1 in a packed q, k, v.
      after: the same by stream.
      velocities: by stream, (places in [0, 1], velocity there); empty where the method has no velocity field.
      maps: by stream, (places in [0, 1], where they are moved to); empty likewise.
      axis: what [0, 1] stands for.
    """

    path: str
    before: np.ndarray
    after: Mapping[str, np.ndarray]
    velocities: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=dict)
    maps: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=dict)
    axis: str = "singular value / largest"

    @property
    def name(self) -> str:
        """The last two parts of the path."""
        return "/".join(self.path.split("/")[-2:])


@styled
def draw_spectra(layers: Sequence[LayerSpectra], streams: Sequence[str], title: str = ""):
    """A row per layer: singular values, how each changed, and, where there are any, velocity field and map.

    Args:
      layers: the rows.
      streams: all streams of the model, which fixes their styles.
      title: one line above.

    Returns:
      A Matplotlib figure.
    """
    from matplotlib.lines import Line2D

    fields = any(layer.maps for layer in layers)
    columns = 4 if fields else 2
    width = columns * _COLUMN
    handles = [Line2D([], [], label="before", color="0.6", linewidth=3.0)]
    handles += [Line2D([], [], label=name, **_style(streams, name)) for name in streams]
    across = max(min(int(width // 1.25), len(handles)), 1)
    height = _ROW * len(layers) + 0.2 * -(-len(handles) // across) + 0.25 + (0.3 if title else 0.0)
    figure = new_figure(width, height, constrained=True)
    axes = figure.subplots(len(layers), columns, squeeze=False)
    for number, (row, layer) in enumerate(zip(axes, layers, strict=True)):
        last = number == len(layers) - 1
        _singular_values(row[0], layer, streams, last)
        _changes(row[1], layer, streams, last)
        if fields:
            _curves(row[2], layer.velocities, streams, layer.axis if last else "", "velocity", zero=True)
            _maps(row[3], layer, streams, last)
        row[0].set_ylabel(wrapped(layer.name, _ROW - 0.3, 8.0, 1))
    for axis, text in zip(axes[0], _titles(fields), strict=True):
        axis.set_title(text)
    if title:
        figure.suptitle(wrapped(title, width - 0.3, 10.0, 2), fontsize=10)
    figure.legend(handles=handles, loc="outside lower center", ncols=across)
    return figure


def _titles(fields: bool) -> list[str]:
    return ["singular values", "change of each", *(["velocity field", "map, minus the identity"] if fields else [])]


def _style(streams: Sequence[str], name: str) -> dict:
    return line_style(list(streams).index(name))


def _singular_values(axis, layer: LayerSpectra, streams: Sequence[str], last: bool) -> None:
    places = np.arange(1, layer.before.shape[-1] + 1)
    for part in layer.before:
        axis.plot(places, part, color="0.6", linewidth=3.0, solid_capstyle="butt")
    for name, values in layer.after.items():
        for part in values:
            axis.plot(places, part, **_style(streams, name) | {"marker": "", "linewidth": 0.9})
    axis.set_ylim(bottom=0)
    _few_ticks(axis)
    if last:
        axis.set_xlabel("number of the singular value")


def _changes(axis, layer: LayerSpectra, streams: Sequence[str], last: bool) -> None:
    places = np.arange(1, layer.before.shape[-1] + 1)
    # Of the largest value: a relative change of the smallest ones would drown all others.
    largest = layer.before[:, :1]
    for name, values in layer.after.items():
        for part in 100 * (values - layer.before) / largest:
            axis.plot(places, part, **_spaced(_style(streams, name), len(places), streams, name))
    axis.axhline(0, color="0.6", linewidth=0.7, zorder=0.5)
    axis.set_ylabel("% of the largest")
    _few_ticks(axis)
    if last:
        axis.set_xlabel("number of the singular value")


def _curves(axis, curves: Mapping, streams: Sequence[str], below: str, label: str, zero: bool) -> None:
    for name, (places, values) in curves.items():
        axis.plot(places, values, **_spaced(_style(streams, name), len(places), streams, name))
    if zero:
        axis.axhline(0, color="0.6", linewidth=0.7, zorder=0.5)
    axis.set_ylabel(label)
    axis.set_xlim(0, 1)
    _few_ticks(axis)
    if below:
        axis.set_xlabel(below)


def _maps(axis, layer: LayerSpectra, streams: Sequence[str], last: bool) -> None:
    moved = {name: (places, values - places) for name, (places, values) in layer.maps.items()}
    _curves(axis, moved, streams, layer.axis if last else "", "f(x) - x", zero=True)


def _spaced(style: dict, count: int, streams: Sequence[str], name: str) -> dict:
    """Few markers, at different places for different streams."""
    every = max(count // 4, 1)
    start = list(streams).index(name) * every // max(len(streams), 1)
    return style | {"markevery": list(range(start, count, every)), "linewidth": 1.0, "markersize": 3.0}


def _few_ticks(axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axis.yaxis.set_major_locator(MaxNLocator(nbins=4))
