"""Images to predict: found, read a few at a time while the network is busy, turned upright; one that fails stops no
other.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import hashlib
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from ditask_jax.data.folder import IMAGE_ENDINGS
from ditask_jax.data.image_files import decode_image, read_bytes, turn_upright
from ditask_jax.errors import DataError
from ditask_jax.files import LONGEST_NAME, cut_name, user_path
from ditask_jax.prediction.predictor import Prediction, Predictor

# Images to predict: a file or a folder of files, turned upright, in RGB.


RAW, PICTURES, PANELS = RESULT_FOLDERS = ("raw", "pictures", "panels")
"""Below the folder of the results; `ditask_jax.prediction.outputs` says what they hold."""
ENDINGS = (*IMAGE_ENDINGS, ".gif", ".ppm", ".pgm")
RESULT_ENDINGS = (".png", ".npy", ".json")
"""What is put behind an image's name to name its results."""
_ROOM = max(map(len, RESULT_ENDINGS))
_DIGITS = 16  # of a hash in a name: 64 bits
# Bytes of a name with its folders, of the 4,096 that a path may have on Linux; the others are the results' folder's.
_LONGEST_PATH = 2048


@dataclasses.dataclass(frozen=True)
class PictureFile:
    """A file to predict, and the name that its results get.

    Attributes:
      path: the file.
      id: path below the input folder, ending included; with a hash where it is too long, or another one is too like it
        (see `result_names`).
    """

    path: Path
    id: str


def find_pictures(source: str | Path, results: str | Path | None = None) -> list[PictureFile]:
    """The image files of a folder and of those below it, sorted; or the one file that is named.

    Args:
      source: a file of any ending, or a folder.
      results: the folder of the results, which may be inside or around that of the images: what predictions put
        there is passed over.

    Raises:
      DataError: nothing there, or no images in it.
    """
    source = user_path(source, "predict: input")
    longest = LONGEST_NAME if results is None else _longest_name(user_path(results))
    if source.is_file():
        return [PictureFile(source, *result_names([PurePosixPath(source.name)], longest))]
    if not source.is_dir():
        raise DataError(f"predict: no file or folder '{source}'")
    banned = set() if results is None else _of_results(user_path(results).resolve(), source.resolve())
    paths = sorted(path for path in _files(source) if path.suffix.lower() in ENDINGS)
    paths = [path for path in paths if banned.isdisjoint(Path(os.path.realpath(path)).parents)]
    if not paths:
        raise DataError(f"predict: no images in '{source}'; known endings: {' '.join(ENDINGS)}")
    inner = [PurePosixPath(path.relative_to(source).as_posix()) for path in paths]
    names = result_names(inner, longest)
    return [PictureFile(path, name) for path, name in zip(paths, names, strict=True)]


def result_names(paths: Sequence[PurePosixPath], longest: int = LONGEST_NAME) -> list[str]:
    """Names for the results of images, no two alike on any file system: a result is such a name and an ending.

    A name is the whole path of the image below its folder. One that is too long for a file name is cut and gets a
    hash of the path, and so does every one of several that differ in upper and lower case, in how their accents are
    coded or in dots and spaces that end a folder alone, or whose results would stand where the folder of others must.

    Args:
      paths: below the folder of the input, each once.
      longest: bytes that a file system allows a name.

    >>> result_names([PurePosixPath(path) for path in ("a.jpg", "a.png", "sub/a.jpg")])
    ['a.jpg', 'a.png', 'sub/a.jpg']
    >>> result_names([PurePosixPath(path) for path in ("a.jpg", "A.jpg", "b.jpg")])
    ['a-509b0d4641a7c3ba.jpg', 'A-c88c8fcaab746d61.jpg', 'b.jpg']
    """
    names = [_fitting(path, longest) for path in paths]
    # Those that got a hash are compared again: nothing keeps a file from having been called so.
    for _ in range(len(paths) + 1):
        common = Counter(_key(name) for name in names)
        folders = {_key(folder).rstrip(". ") for name in names for folder in name.parents}
        alike = [
            common[_key(name)] > 1 or any(_key(name) + ending in folders for ending in RESULT_ENDINGS) for name in names
        ]
        marked = [
            _marked(name, path, longest) if again else name
            for name, path, again in zip(names, paths, alike, strict=True)
        ]
        if marked == names:
            break
        names = marked
    return [name.as_posix() for name in names]


def _fitting(path: PurePosixPath, longest: int) -> PurePosixPath:
    """A path whose parts are no longer than a file system allows, its results' endings included."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        return _marked(PurePosixPath(path.name), path, longest)
    found = PurePosixPath()
    for part in (*reversed(path.parents[:-1]), path):
        room = longest - (_ROOM if part == path else 0)
        fits = len(os.fsencode(part.name)) <= room
        found /= part.name if fits else _marked(PurePosixPath(part.name), part, longest)
    return found


def _marked(name: PurePosixPath, path: PurePosixPath, longest: int) -> PurePosixPath:
    """A name with a hash of a path in front of its ending, cut to what a file system allows."""
    mark = f"-{hashlib.sha256(os.fsencode(path)).hexdigest()[:_DIGITS]}"
    ending = name.suffix if len(os.fsencode(name.suffix)) <= 8 else ""
    room = longest - _ROOM - len(mark) - len(os.fsencode(ending))
    stem = name.name.removesuffix(ending).removesuffix(mark)
    return name.with_name(f"{cut_name(stem, room)}{mark}{ending}")


def _longest_name(folder: Path) -> int:
    """Bytes that a name may have in a folder that need not be there yet."""
    there = next((entry for entry in (folder.absolute(), *folder.absolute().parents) if entry.is_dir()), None)
    try:
        allowed = os.pathconf(there, "PC_NAME_MAX") if there is not None else LONGEST_NAME
    except (OSError, ValueError, AttributeError):
        allowed = LONGEST_NAME  # a system that does not tell
    return min(allowed, LONGEST_NAME) if allowed >= 64 else LONGEST_NAME


def _of_results(results: Path, source: Path) -> set[Path]:
    """Folders that hold predictions: all of one inside the images' own, else only those that predictions go to."""
    if source in results.parents:
        return {results}
    return {results / name for name in RESULT_FOLDERS if results / name not in (source, *source.parents)}


def _key(path: PurePosixPath) -> str:
    """Equal for names that some file system takes for one.

    Of another case, with accents coded otherwise, or of folders with dots and spaces at their ends.
    """
    text = "/".join((*(part.rstrip(". ") for part in path.parts[:-1]), path.name))
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        # A link to nothing or a pipe is called an image too: reading it says what it is.
        if not os.path.isdir(path) and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def read_picture(path: Path) -> np.ndarray:
    """An image as a viewer shows it, uint8 `[H, W, 3]` RGB.

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


# Images through the network in order: the next few are read while it is busy; one that fails takes no other along.


# What one image can be the reason of: its size, or a name that its results cannot have. A full disk is not.
_FAILURES = (DataError, MemoryError, cv2.error)
_NAMES = (
    errno.ENAMETOOLONG,
    errno.EILSEQ,
    errno.EINVAL,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ELOOP,
)
Broken = Callable[[PictureFile, str], None]
"""Told of a file and of why it is left out; may raise to stop."""

_AHEAD = 8
_THREADS = 2


def readable(files: Sequence[PictureFile], on_bad_file: Broken) -> Iterator[tuple[PictureFile, np.ndarray]]:
    """Files with their images, in the order given; those that cannot be read go to `on_bad_file` with the reason."""
    remaining = iter(files)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        queue: collections.deque = collections.deque()
        try:
            while True:
                while len(queue) < _AHEAD and (file := next(remaining, None)) is not None:
                    queue.append((file, pool.submit(read_picture, file.path)))
                if not queue:
                    return
                file, future = queue.popleft()
                try:
                    image = future.result()
                except DataError as error:
                    on_bad_file(file, str(error))
                    continue
                yield file, image
        finally:
            for _, future in queue:
                future.cancel()


def predicted(
    predictor: Predictor, pictures: Iterable[tuple[PictureFile, np.ndarray]], batch_size: int, on_bad_file: Broken
) -> Iterator[tuple[PictureFile, np.ndarray, Prediction]]:
    """Files with their images and predictions, in the order given; those that fail go to `on_bad_file`.

    Args:
      predictor: what predicts.
      images: from `readable`.
      batch_size: images at a time; a batch that fails is tried again image by image.
      on_bad_file: see `Broken`.
    """
    remaining = iter(pictures)
    while group := list(itertools.islice(remaining, batch_size)):
        done = 0
        try:
            for (file, image), prediction in zip(group, predictor.stream(image for _, image in group), strict=False):
                done += 1
                yield file, image, prediction
        except _FAILURES:
            for file, image in group[done:]:
                with one_picture(file, on_bad_file):
                    [prediction] = predictor.stream([image])
                    yield file, image, prediction


@contextlib.contextmanager
def one_picture(file: PictureFile, on_bad_file: Broken) -> Iterator[None]:
    """What goes wrong inside for a reason of the image's own goes to `on_bad_file`; anything else is raised."""
    try:
        yield
    except _FAILURES as error:
        on_bad_file(file, f"predict: '{file.path}': {' '.join(str(error).split())[:200] or type(error).__name__}")
    except OSError as error:
        if error.errno not in _NAMES:
            raise
        on_bad_file(file, f"predict: the results of '{file.path}' cannot be written: {error.strerror}")
