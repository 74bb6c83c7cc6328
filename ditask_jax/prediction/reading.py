"""Reads pictures ahead of the network, in order, a few at a time."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ditask_jax.errors import DataError
from ditask_jax.prediction.pictures_in import PictureFile, read_picture

_AHEAD = 8
_THREADS = 2


def readable(
    files: Sequence[PictureFile], on_bad_file: Callable[[PictureFile, str], None]
) -> Iterator[tuple[PictureFile, np.ndarray]]:
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
