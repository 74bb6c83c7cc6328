"""Finding and reading golden files; every shape and option comes from a file's `meta`."""

import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np

GOLDEN_DIR = pathlib.Path(os.environ.get("DITASK_GOLDEN_DIR", pathlib.Path(__file__).parents[1] / "golden"))


class Golden(Mapping):
    """A golden `.npz` file: arrays by flat name (float16 widened to float32), and `meta`, its JSON configuration."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._file = np.load(path, allow_pickle=False)
        self.meta = json.loads(str(self._file["meta"])) if "meta" in self._file.files else {}

    def __getitem__(self, name):
        array = self._file[name]
        return array.astype(np.float32) if array.dtype == np.float16 else array

    def __iter__(self):
        return (name for name in self._file.files if name != "meta")

    def __len__(self):
        return len(list(iter(self)))

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays whose name starts with `prefix`, keyed by the rest of the name."""
        return {name[len(prefix) :]: self[name] for name in self if name.startswith(prefix)}


def find(pattern: str) -> list[pathlib.Path]:
    """Golden files matching a glob, sorted; used to parametrise tests."""
    return sorted(GOLDEN_DIR.glob(pattern))
