"""Sheets: Matplotlib figures with one look, their keys, and writing them to files."""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ditask_jax.errors import ConfigError, check_known
from ditask_jax.files import atomic_write_bytes
from ditask_jax.tasks import Task

# Figures: one style, text that is measured before it is placed, and files that appear whole.


if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
DPI = 150
# SVG: equal figures give equal files; text stays text, to be searched and edited.
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.0,
    "svg.hashsalt": "ditask_jax",
    "svg.fonttype": "none",
    "figure.max_open_warning": 0,
    # A dollar in the name of a file or a run is a dollar.
    "text.parse_math": False,
}
# Colours that differ in lightness, and dashes and markers that tell lines apart without them.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_DASHES = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (9, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (1, 2)),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def load_matplotlib() -> types.ModuleType:
    """Matplotlib, whatever its own variables and settings file hold: figures here need none of them.

    A `MPLBACKEND` that cannot be used here, such as that of a notebook which a shell has inherited, or a damaged
    `matplotlibrc` would otherwise end the import. Where they are sound they hold as ever for the user's own figures.

    Raises:
        ConfigError: Matplotlib is missing or broken.
    """
    own = {"MPLBACKEND": None, "MATPLOTLIBRC": None}
    if "matplotlib" not in sys.modules and (found := importlib.util.find_spec("matplotlib")) and found.origin:
        own["MATPLOTLIBRC"] = str(Path(found.origin).parent / "mpl-data" / "matplotlibrc")
    for names in ((), ("MPLBACKEND",), ("MPLBACKEND", "MATPLOTLIBRC")):
        before = {name: os.environ.pop(name, None) for name in names}
        os.environ.update({name: own[name] for name in names if own[name]})
        try:
            return importlib.import_module("matplotlib")
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            # What it has imported of itself before it failed does not fit a second import.
            for module in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
                del sys.modules[module]
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
    raise ConfigError(f"matplotlib: cannot be loaded ({reason}); install it, or fix the file that it names")


@contextlib.contextmanager
def settings(**changed) -> Iterator[None]:
    """Matplotlib's own defaults but for what is named, and not the user's, while something is drawn and written."""
    matplotlib = load_matplotlib()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(changed)
        yield


def styled(draw: Callable) -> Callable:
    """Runs a drawing function in the style of these figures, whatever the user's own settings are."""

    @functools.wraps(draw)
    def inside(*args, **kwargs):
        with settings(**_STYLE):
            return draw(*args, **kwargs)

    return inside


def line_style(number: int) -> dict:
    """Colour, dashes and marker of the line of that number.

    >>> line_style(0)["marker"], line_style(1)["marker"]
    ('o', 's')
    """
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _DASHES[number % len(_DASHES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


def new_figure(width: float, height: float, constrained: bool = False) -> "Figure":
    """An empty figure of so many inches on a canvas of its own."""
    load_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    return figure


@styled
def to_bytes(figure: "Figure", format: str = "png", dpi: float = DPI) -> bytes:
    """A figure as the content of a file."""
    check_known("figures: format", format, FORMATS)
    buffer = io.BytesIO()
    # No date and no version inside: the same figure is the same file.
    metadata = {"Software": None} if format == "png" else {"Date": None, "Creator": "ditask_jax"}
    figure.savefig(buffer, format=format, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def save(figure: "Figure", path: str | Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes a figure, once per format; returns the files.

    Args:
      figure: what to write.
      path: of the files, without an ending.
      formats: of `FORMATS`.
    """
    content = {format: to_bytes(figure, format) for format in formats}
    return [atomic_write_bytes(f"{path}.{format}", value) for format, value in content.items()]


@functools.lru_cache(maxsize=4096)
def text_width(text: str, size: float) -> float:
    """Width of one line in inches, for a font of so many points."""
    load_matplotlib()
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, False)
    return width / 72


def drawable(text: str) -> str:
    """Text with a question mark for every sign that the font of the figures does not have.

    >>> drawable("été 日本")
    'été ??'
    """
    known = _signs()
    return "".join(sign if ord(sign) in known or sign.isspace() else "?" for sign in text)


@functools.cache
def _signs() -> frozenset[int]:
    load_matplotlib()
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def wrapped(text: str, width: float, size: float, most_lines: int = 3) -> str:
    """Text in lines of at most so many inches; words that are too long are cut, and what is too much ends in "...".

    >>> wrapped("a few words", 10.0, 8.0)
    'a few words'
    """
    lines, line = [], ""
    for word in drawable(text).split():
        joined = f"{line} {word}".strip()
        if text_width(joined, size) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while text_width(word, size) > width and len(word) > 1:
            cut = next((n for n in range(len(word) - 1, 0, -1) if text_width(word[:n], size) <= width), 1)
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    lines = [*lines, line] if line else lines
    if len(lines) > most_lines:
        last = lines[most_lines - 1]
        while last and text_width(f"{last}...", size) > width:
            last = last[:-1]
        lines = [*lines[: most_lines - 1], f"{last}..."]
    return "\n".join(lines)


# What the colours of prediction images say: entries of a key, and how they are laid out under a figure.


SIZE = 7.0
ROW = 0.175
_SWATCH = 0.13
_BAR = 0.55
_GAP = 0.16
_UNLABELLED = 255
_MOST_ENTRIES = 40


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of a key.

    Attributes:
      text: what stands beside the swatch.
      colours: uint8 triples: one for a swatch, several for a bar; none for plain text.
    """

    text: str
    colours: tuple[tuple[int, int, int], ...] = ()

    @property
    def width(self) -> float:
        """Inches, with the gap behind it."""
        swatch = 0.0 if not self.colours else (_SWATCH if len(self.colours) == 1 else _BAR) + 0.05
        return swatch + text_width(self.text, SIZE) + _GAP


def key_of(task: Task, values: Sequence[np.ndarray]) -> list[Entry]:
    """The key of a task for the predictions and labels that a figure shows; its name comes first.

    >>> from ditask_jax.tasks import Saliency
    >>> [entry.text for entry in key_of(Saliency(), [np.array([[0.5]])])]
    ['sal:', 'probability 0 to 1']
    """
    entries = [Entry(drawable(swatch.text), swatch.colours) for swatch in task.colour_key(values)]
    if len(entries) > _MOST_ENTRIES:
        entries = [*entries[:_MOST_ENTRIES], Entry(f"and {len(entries) - _MOST_ENTRIES} more")]
    return [Entry(f"{task.name}:"), *entries] if entries else []


def key_rows(keys: Sequence[Sequence[Entry]], width: float) -> list[list[Entry]]:
    """Entries in rows of at most so many inches; what belongs to one task stays in one row if it fits into one."""
    rows: list[list[Entry]] = []
    room = 0.0
    for entries in filter(None, keys):
        if sum(entry.width for entry in entries) > room:
            rows.append([])
            room = width
        for entry in entries:
            if rows[-1] and entry.width > room:
                rows.append([Entry("")])
                room = width - _GAP
            rows[-1].append(entry)
            room -= entry.width
    return rows


def draw_key(figure, rows: Sequence[Sequence[Entry]], left: float, top: float) -> None:
    """Draws rows of entries, in inches from the figure's left and bottom edges; `top` is that of the first row."""
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches()
    for number, row in enumerate(rows):
        x, y = left, top - ROW * (number + 1)
        for entry in row:
            start = x
            if entry.colours:
                total = _SWATCH if len(entry.colours) == 1 else _BAR
                colours = _steps(entry.colours)
                piece = total / len(colours)
                for k, colour in enumerate(colours):
                    place = ((x + k * piece) / width, (y + 0.02) / height)
                    face = np.array(colour) / 255
                    figure.add_artist(
                        Rectangle(place, piece / width, 0.11 / height, transform=figure.transFigure,
                                  facecolor=face, edgecolor="none")
                    )  # fmt: skip
                frame = Rectangle((x / width, (y + 0.02) / height), total / width, 0.11 / height, fill=False,
                                  transform=figure.transFigure, edgecolor="0.4", linewidth=0.5)  # fmt: skip
                figure.add_artist(frame)
                x += total + 0.05
            if entry.text:
                figure.text(x / width, (y + 0.03) / height, entry.text, fontsize=SIZE, ha="left", va="baseline")
            x = start + entry.width


def _steps(colours: Sequence[tuple[int, int, int]]) -> list:
    """A bar of two colours as a smooth one."""
    if len(colours) != 2:
        return list(colours)
    mix = np.linspace(0, 1, 16)[:, None]
    return list(np.array(colours[0]) * (1 - mix) + np.array(colours[1]) * mix)


def numbers_of(classes: np.ndarray, room: float) -> Mapping[int, tuple[int, int]]:
    """Where the number of a class fits into its largest area: class id to (row, column).

    Args:
      classes: class ids `[H, W]`.
      room: pixels that must be free around the middle of a number.
    """
    found = {}
    for value in np.unique(classes):
        if value == _UNLABELLED:
            continue
        # A frame of zeros: beyond the image's edge there is no room.
        mask = np.pad((classes == value).astype(np.uint8), 1)
        distance = cv2.distanceTransform(mask, cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = np.unravel_index(np.argmax(distance), distance.shape)
        if distance[row, column] >= room:
            found[int(value)] = (int(row), int(column))
    return found
