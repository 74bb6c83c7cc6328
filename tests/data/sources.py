"""A source for worker processes, which import its module anew: so nothing here takes long to load."""

import dataclasses
import os
import signal

import numpy as np

from ditask_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Tiny examples that show their index; one cannot be read, one kills the process that reads it."""

    count: int
    broken: int | None = None
    deadly: int | None = None

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.broken:
            raise DataError(f"folder: /pictures/{index}.png cannot be decoded")
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"image": np.full((8, 8, 3), index, np.uint8), "semseg": np.full((8, 8), index % 12, np.uint8)}
