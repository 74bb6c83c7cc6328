"""Reads the files of tasks that a configuration declares: class maps, masks, numbers per pixel, normals, depth.

ROOT/train/<folder>/<id>.png|.npy     one file per image, of the image's size

classes      whole numbers, which `ids` and `ignore` explain; or a colour image in the `colours` of the classes
mask         0 = no, one other value = yes, besides what is ignored
regression   numbers of any sign, times `scale`; what is not finite is no label
normals      float [H, W, 3] unit vectors, zero = missing; as PNG, v = 2 RGB / 255 - 1
depth        numbers, times `scale`; 0 and what is not finite is no label
"""

import dataclasses
from pathlib import Path

import numpy as np

from ditask_jax.data import image_files
from ditask_jax.data.image_headers import JPEG_START, PNG_START
from ditask_jax.errors import DataError
from ditask_jax.labels import IGNORE

ENDINGS = (".npy", ".png")
DEPTH_UNITS = {"metres": 1.0, "millimetres": 0.001}
_SHOWN = 8

Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class DeclaredLabel:
    """How the files of one task are read.

    Attributes:
      name: of the task, for messages.
      kind: "classes", "mask", "regression", "normals" or "depth".
      folder: below `train/` and `val/`.
      class_names: of classes, in the order of their numbers.
      ids: the number of each class in the files.
      colours: the colour of each class in colour images; empty where files are not in colours.
      ignore: numbers, and colours of classes, that are no label.
      scale: factor on numbers; None: 1, and of depth by the kind of file.

    >>> DeclaredLabel("garments", "classes", "garments", ("background", "shirt"), (0, 1)).num_classes
    2
    """

    name: str
    kind: str
    folder: str
    class_names: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    colours: tuple[Colour, ...] = ()
    ignore: tuple[float | Colour, ...] = ()
    scale: float | None = None

    @property
    def num_classes(self) -> int | None:
        """Number of classes of a class map, 2 of a mask, None of numbers."""
        return len(self.class_names) or (2 if self.kind == "mask" else None)

    def class_text(self, number: int) -> str:
        """A class as people read it: its name, and what stands for it in the files."""
        stands = _hex(self.colours[number]) if self.colours else f"{self.ids[number]}"
        return f"{self.class_names[number]} ({stands})"

    def read(self, path: Path) -> np.ndarray:
        """The label of one file, of the file's size.

        Returns:
          uint8 [H, W] of classes and masks and float32 [H, W] of numbers, where `IGNORE` is no label; float32 [H, W] of
          depth, 0 = no label; float32 [H, W, 3] of normals, zero = no label.

        Raises:
          DataError: unreadable, or a value that the declaration does not know.
        """
        readers = {"classes": self._classes, "mask": self._mask, "regression": self._numbers, "depth": self._depth}
        return read_normals(path) if self.kind == "normals" else readers[self.kind](path)

    def _where(self, option: str) -> str:
        return f"--config.task.{self.name}.{option}"

    def _whole_numbers(self, path: Path) -> np.ndarray:
        if path.suffix.lower() == ".png":
            return _grey(path)
        values = image_files.one_channel(image_files.read_array(path))
        if values.ndim != 2 or not values.size:
            raise DataError(f"data: {path} holds {values.dtype} {list(values.shape)}; expected whole numbers [H, W]")
        if values.dtype.kind == "f":
            if (values != np.floor(values)).any():  # what is NaN equals nothing
                raise DataError(f"data: {path} holds numbers between whole ones; those of '{self.name}' are whole")
            return values.astype(np.int64)
        if values.dtype.kind not in "bui":
            raise DataError(f"data: {path} holds {values.dtype}; expected whole numbers")
        return values.astype(np.uint8) if values.dtype.kind == "b" else values

    def _classes(self, path: Path) -> np.ndarray:
        if path.suffix.lower() == ".png":
            content = image_files.read_bytes(path)
            if is_coloured(content):
                return self._by_colour(image_files.decode_colours(content, path), path)
            values = image_files.decode_indices(content, path)
        else:
            values = self._whole_numbers(path)
        ignored = [number for number in self.ignore if not isinstance(number, tuple)]
        numbers = np.array([*self.ids, *ignored], np.int64)
        meaning = np.array([*range(len(self.ids)), *[IGNORE] * len(ignored)], np.uint8)
        label, known = _looked_up(values.astype(np.int64), numbers, meaning)
        if known.all():
            return label
        strange = np.unique(values[~known])
        raise DataError(
            f"data: {path} holds the class number{'s' * (len(strange) > 1)} {_listed(strange)}; task.{self.name} has "
            f"{_span(self.ids)} ({len(self.ids)} classes){self._ignored_words()}: add what is missing to "
            f"{self._where('classes')}, or say what is no label by {self._where('ignore')}"
        )

    def _by_colour(self, colours: np.ndarray, path: Path) -> np.ndarray:
        if not self.colours:
            raise DataError(
                f"data: {path} is a colour image; say the colour of each class of '{self.name}' by "
                f"{self._where('colours')}=#000000,#ff0000 ('python -m ditask_jax.data doctor folder' lists those that "
                "occur), or save class numbers in one channel"
            )
        packed = packed_colours(colours)
        ignored = [colour for colour in self.ignore if isinstance(colour, tuple)]
        numbers = packed_colours(np.array([*self.colours, *ignored], np.uint8))
        meaning = np.array([*range(len(self.colours)), *[IGNORE] * len(ignored)], np.uint8)
        label, known = _looked_up(packed, numbers, meaning)
        if known.all():
            return label
        found, counts = np.unique(packed[~known], return_counts=True)
        strange = int(found[np.argmax(counts)])
        rgb = np.array([strange >> 16, strange >> 8 & 255, strange & 255])
        nearest = int(np.argmin(np.abs(np.array(self.colours, int) - rgb).sum(1)))
        raise DataError(
            f"data: {path} holds {_counted(len(found), 'colour')} that task.{self.name}.colours has not, most often "
            f"#{strange:06x} ({100 * counts.max() / packed.size:.1f} % of the image; nearest: "
            f"'{self.class_names[nearest]}' {_hex(self.colours[nearest])}): add a class, or say that it is no label by "
            f"{self._where('ignore')}=#{strange:06x}; labels with blurred borders (JPEG, resized) need cleaning first"
        )

    def _ignored_words(self) -> str:
        return f", and {_listed(self.ignore)} is no label" if self.ignore else ""

    def _mask(self, path: Path) -> np.ndarray:
        values = self._whole_numbers(path)
        ignored = np.isin(values, np.array(self.ignore, np.float64))
        yes = np.unique(values[(values != 0) & ~ignored])
        if len(yes) > 1:
            raise DataError(
                f"data: {path} holds the values {_listed(yes)} besides 0{self._ignored_words()}; a mask has 0 and one "
                f"other value: say which of them is no label by {self._where('ignore')}, threshold soft masks, or "
                f"declare {self._where('kind')}=classes, or regression for shades"
            )
        return np.where(ignored, IGNORE, values != 0).astype(np.uint8)

    def _numbers(self, path: Path) -> np.ndarray:
        stored = _stored_numbers(path)
        missing = np.isin(stored, np.array(self.ignore, stored.dtype)) | ~np.isfinite(stored)
        values = stored if self.scale is None else stored * np.float32(self.scale)
        # 255 says "no label" from here on: a value that is just that moves by its last bit.
        values = np.where(values == IGNORE, np.nextafter(np.float32(IGNORE), np.float32(0)), values)
        return np.where(missing, np.float32(IGNORE), values)

    def _depth(self, path: Path) -> np.ndarray:
        if self.scale is None:
            return _without(read_depth(path, None, self._where("scale") + "=0.001 or 1"), self.ignore)
        stored = _stored_numbers(path)
        stored = _without(np.where(np.isfinite(stored), stored, np.float32(0)), self.ignore)
        if (stored < 0).any():
            raise DataError(
                f"data: {path} holds a negative depth ({float(stored.min()):g}); say what is no label by "
                f"{self._where('ignore')}"
            )
        return stored * np.float32(self.scale)


def _without(values: np.ndarray, ignore: tuple) -> np.ndarray:
    """Distances with 0 for what is no label."""
    return np.where(np.isin(values, np.array(ignore, values.dtype)), np.float32(0), values)


def is_coloured(content: bytes) -> bool:
    """Whether the bytes are a PNG of three or four channels, or a JPEG; palettes are numbers."""
    return (content.startswith(PNG_START) and content[25:26] in (b"\2", b"\6")) or content.startswith(JPEG_START)


def _grey(path: Path) -> np.ndarray:
    """The numbers of a label image, also of one whose three channels are the same, as some tools save masks."""
    content = image_files.read_bytes(path)
    if is_coloured(content):
        colours = image_files.decode_colours(content, path)
        if (colours == colours[..., :1]).all():
            return colours[..., 0]
    return image_files.decode_indices(content, path)


def _stored_numbers(path: Path) -> np.ndarray:
    """Numbers of a file as float32 [H, W], what is not finite as it is."""
    stored = _grey(path) if path.suffix.lower() == ".png" else image_files.one_channel(image_files.read_array(path))
    if stored.ndim != 2 or stored.dtype.kind not in "buif" or not stored.size:
        raise DataError(f"data: {path} holds {stored.dtype} {list(stored.shape)}; expected numbers [H, W]")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which is no label
        return stored.astype(np.float32)


def read_normals(path: Path) -> np.ndarray:
    """Unit vectors float32 [H, W, 3], zero where missing, of a `.npy` of floats or a colour PNG."""
    if path.suffix.lower() == ".png":
        vectors = image_files.read_colour_vectors(path)
    else:
        stored = image_files.read_array(path)
        vectors = image_files.as_floats(stored, 3, path)
        if stored.dtype.kind != "f":
            raise DataError(
                f"folder: {path} holds {stored.dtype}; directions are floats in -1..1 (colours of directions are PNG)"
            )
    length = np.sqrt((vectors * vectors).sum(-1, keepdims=True))
    return vectors / np.where(length > 0, length, np.float32(1))


def read_depth(path: Path, unit: str | None, remedy: str) -> np.ndarray:
    """Metres float32 [H, W], zero where missing; `remedy` says how to give the unit of files that do not tell it."""
    if path.suffix.lower() == ".png":
        stored = image_files.read_indices(path)
        if stored.dtype == np.uint8:
            raise DataError(
                f"folder: {path} is an 8-bit image; depth needs a 16-bit PNG in millimetres or a .npy in metres"
            )
        unit = unit or "millimetres"
    else:
        stored = image_files.read_array(path)
    values = image_files.as_floats(stored, 1, path)
    if (values < 0).any():
        raise DataError(f"folder: {path} holds a negative depth ({float(values.min()):g}); missing values are 0")
    if unit is None and stored.dtype.kind != "f":
        raise DataError(
            f"folder: {path} holds whole numbers ({stored.dtype}, up to {stored.max()}) and no unit: set {remedy}"
        )
    factor = DEPTH_UNITS[unit or "metres"]
    return values if factor == 1 else values * np.float32(factor)


def _looked_up(values: np.ndarray, numbers: np.ndarray, meaning: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What numbers mean, and where they mean anything."""
    order = np.argsort(numbers, kind="stable")
    place = np.minimum(np.searchsorted(numbers[order], values), len(numbers) - 1)
    return meaning[order][place], numbers[order][place] == values


def packed_colours(colours: np.ndarray) -> np.ndarray:
    """Colours uint8 [..., 3] as one number each."""
    wide = colours.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _hex(colour: Colour) -> str:
    return "#" + bytes(colour).hex()


def _listed(values) -> str:
    shown = [_hex(value) if isinstance(value, tuple) else f"{value:g}" for value in list(values)[:_SHOWN]]
    return ", ".join(shown) + (" ..." if len(values) > _SHOWN else "")


def _span(ids: tuple[int, ...]) -> str:
    return f"{ids[0]}..{ids[-1]}" if ids == tuple(range(ids[0], ids[0] + len(ids))) else _listed(ids)


def _counted(count: int, word: str) -> str:
    return f"1 {word}" if count == 1 else f"{count} {word}s"
