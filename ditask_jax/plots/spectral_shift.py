"""How far every layer moved, stream by stream, as a table of grey levels with numbers."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ditask_jax.plots.sheet import new_figure, styled, text_width, wrapped

_ROW = 0.17
_COLUMN = 0.62
_FONT = 6.5


@dataclasses.dataclass(frozen=True)
class SpectralShift:
    """How far one layer moved.

    Attributes:
      path: of the layer.
      moved: by stream, the Frobenius norm of the kernel's change over that of the kernel; "" stands for all streams.
    """

    path: str
    moved: Mapping[str, float]

    @property
    def name(self) -> str:
        """The path without what all layers have in common.

        >>> SpectralShift("backbone/stages/0/blocks/1/mlp/fc1", {}).name
        'stage 0, block 1, fc1'
        """
        parts = self.path.split("/")
        where = [
            f"{word} {parts[parts.index(key) + 1]}"
            for word, key in (("stage", "stages"), ("block", "blocks"))
            if key in parts
        ]
        return ", ".join([*where, parts[-1]])


@styled
def draw_spectral_shift(layers: Sequence[SpectralShift], streams: Sequence[str], title: str = ""):
    """A table with a row per layer and a column per stream, in per cent of the kernel's norm; darker moved further.

    Args:
      layers: the rows.
      streams: the columns.
      title: above.

    Returns:
      A Matplotlib figure.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import MaxNLocator

    values = np.array([[100 * _of(layer, stream) for stream in streams] for layer in layers])
    names = [wrapped(layer.name, 3.0, _FONT, 1) for layer in layers]
    column = max(_COLUMN, *(min(text_width(stream, _FONT) + 0.1, 2 * _COLUMN) for stream in streams))
    heads = [wrapped(stream, column - 0.05, _FONT, 2) for stream in streams]
    table = column * len(streams)
    label = max(text_width(name, _FONT) for name in names) + 0.15
    width = max(label + table + 0.75, 3.4)
    title = wrapped(title, width - 0.2, 9.0, 3)
    head = 0.13 * (max(text.count("\n") for text in heads) + 1) + 0.08
    top = head + (0.17 * (title.count("\n") + 1) + 0.1 if title else 0.0)
    body, bottom = _ROW * len(layers), 0.1
    height = top + body + bottom
    figure = new_figure(width, height)
    axes = figure.add_axes((label / width, bottom / height, table / width, body / height))
    most = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    # By the root: kernels that train as a whole move ten times as far as spectra do.
    norm = PowerNorm(0.5, 0, max(most, 1e-9))
    shown = axes.imshow(values, cmap="Greys", norm=norm, aspect="auto")
    axes.set_facecolor("white")
    axes.grid(False)
    axes.set_yticks(range(len(layers)), names, fontsize=_FONT)
    axes.set_xticks(range(len(streams)), heads, fontsize=_FONT)
    axes.tick_params(length=0, pad=2, top=False, bottom=False, labeltop=True, labelbottom=False)
    for (row, column), value in np.ndenumerate(values):
        text = "·" if np.isnan(value) else _short(value)
        light = norm(value) > 0.55
        axes.text(column, row, text, ha="center", va="center", fontsize=_FONT, color="white" if light else "black")
    for row in range(1, len(layers)):
        if _stage(layers[row]) != _stage(layers[row - 1]):
            axes.axhline(row - 0.5, color="0.2", linewidth=0.6)
    if title:
        figure.text(0.5, 1 - 0.08 / height, title, ha="center", va="top", fontsize=9, linespacing=1.2)
    bar_height = min(body, 1.4)
    bar = figure.add_axes(
        ((label + table + 0.12) / width, (bottom + body - bar_height) / height, 0.1 / width,
         bar_height / height)
    )  # fmt: skip
    ticks = [tick for tick in MaxNLocator(4).tick_values(0, norm.vmax) if 0 <= tick <= norm.vmax]
    figure.colorbar(shown, cax=bar, ticks=ticks)
    bar.tick_params(labelsize=6, length=2)
    bar.grid(False)
    return figure


def _of(layer: SpectralShift, stream: str) -> float:
    return layer.moved.get(stream, layer.moved.get("", np.nan) if stream == "shared" else np.nan)


def _stage(layer: SpectralShift) -> str:
    return layer.name.split(",")[0]


def _short(value: float) -> str:
    """Three digits, as many behind the point as there is room for.

    >>> _short(0.0), _short(0.0123), _short(12.345)
    ('0', '0.012', '12.3')
    """
    if value == 0:
        return "0"
    return f"{value:.1e}" if value < 0.001 else f"{value:.3f}" if value < 1 else f"{value:.3g}"
