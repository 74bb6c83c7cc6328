"""Pictures through the network in order: read ahead of it a few at a time; one that fails takes no other along."""

import collections
import concurrent.futures
import contextlib
import errno
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np

from ditask_jax.errors import DataError
from ditask_jax.prediction.pictures_in import PictureFile, read_picture
from ditask_jax.prediction.predictor import Prediction, Predictor

# What one picture can be the reason of: its size, or a name that its results cannot have. A full disk is not.
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
    """Files with their pictures, in the order given; those that cannot be read go to `on_bad_file` with the reason."""
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
    """Files with their pictures and predictions, in the order given; those that fail go to `on_bad_file`.

    Args:
      predictor: what predicts.
      pictures: from `readable`.
      batch_size: pictures at a time; a batch that fails is tried again picture by picture.
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
    """What goes wrong inside for a reason of the picture's own goes to `on_bad_file`; anything else is raised."""
    try:
        yield
    except _FAILURES as error:
        on_bad_file(file, f"predict: '{file.path}': {' '.join(str(error).split())[:200] or type(error).__name__}")
    except OSError as error:
        if error.errno not in _NAMES:
            raise
        on_bad_file(file, f"predict: the results of '{file.path}' cannot be written: {error.strerror}")
