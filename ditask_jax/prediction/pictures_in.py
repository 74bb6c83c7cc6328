"""Pictures to predict: a file or a folder of files, turned upright, in RGB."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ditask_jax.data.files import decode_image, read_bytes, turn_upright
from ditask_jax.data.folder import IMAGE_ENDINGS
from ditask_jax.errors import DataError

RAW, PICTURES, PANELS = RESULT_FOLDERS = ("raw", "pictures", "panels")
"""Below the folder of the results; `ditask_jax.prediction.results` says what they hold."""
ENDINGS = (*IMAGE_ENDINGS, ".gif", ".ppm", ".pgm")


@dataclasses.dataclass(frozen=True)
class PictureFile:
    """A file to predict, and the name that its results get.

    Attributes:
      path: the file.
      id: path below the input folder without its ending; with it where two files differ in nothing else.
    """

    path: Path
    id: str


def find_pictures(source: str | Path, results: str | Path | None = None) -> list[PictureFile]:
    """The picture files of a folder and of those below it, sorted; or the one file that is named.

    Args:
      source: a file of any ending, or a folder.
      results: the folder of the results, which may be inside or around that of the pictures: what predictions put
        there is passed over.

    Raises:
      DataError: nothing there, or no pictures in it.
    """
    source = Path(source).expanduser()
    if source.is_file():
        return [PictureFile(source, source.stem)]
    if not source.is_dir():
        raise DataError(f"predict: no file or folder '{source}'")
    banned = set() if results is None else _of_results(Path(results).expanduser().resolve(), source.resolve())
    paths = sorted(path for path in _files(source) if path.suffix.lower() in ENDINGS)
    paths = [path for path in paths if banned.isdisjoint(path.resolve().parents)]
    if not paths:
        raise DataError(f"predict: no pictures in '{source}'; known endings: {' '.join(ENDINGS)}")
    inner = [path.relative_to(source) for path in paths]
    common = Counter(_key(path.with_suffix("")) for path in inner)
    names = [path if common[_key(path.with_suffix(""))] > 1 else path.with_suffix("") for path in inner]
    return [PictureFile(path, name.as_posix()) for path, name in zip(paths, names, strict=True)]


def _of_results(results: Path, source: Path) -> set[Path]:
    """Folders that hold predictions: all of one inside the pictures' own, else only those that predictions go to."""
    if source in results.parents:
        return {results}
    return {results / name for name in RESULT_FOLDERS if results / name not in (source, *source.parents)}


def _key(path: Path) -> str:
    """Names that a file system may take for one."""
    return path.as_posix().lower()


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def read_picture(path: Path) -> np.ndarray:
    """A picture as a viewer shows it, uint8 `[H, W, 3]` RGB.

    Grey, palette, CMYK and 16-bit files become RGB, an alpha channel is dropped, an orientation is carried out, of
    several frames the first is taken.

    Raises:
      DataError: missing, unreadable, broken off, or of a range that fits neither 8 nor 16 bits.
    """
    try:
        image, orientation, _ = decode_image(read_bytes(path), path)
    except DataError as error:
        raise DataError(str(error).replace("data: ", "predict: ", 1)) from error
    return turn_upright(image, orientation)
