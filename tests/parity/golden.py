"""Finding and reading golden files; every shape and option comes from a file's `meta`.

A folder given by `DITASK_GOLDEN_DIR` need not hold every kind of file: tests of kinds that it lacks are not collected.
"""

import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np

OWN = "DITASK_GOLDEN_DIR" not in os.environ
GOLDEN_DIR = pathlib.Path(os.environ.get("DITASK_GOLDEN_DIR", pathlib.Path(__file__).parents[1] / "golden"))
# How the files of each kind are called.
_PREFIXES = ("swin_plain", "pvt_v1", "pvt_v2", "vit", "ditask", "mtlora", "full")
_PREFIXES += ("linears", "cpab", "losses", "metrics", "schedules")
KINDS = {kind: f"{kind}*.npz" for kind in _PREFIXES} | {"cpab_core": "cpab_core*/*.npz"}


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

    def has(self, prefix: str) -> bool:
        """Whether there are arrays whose name starts with `prefix`."""
        return any(name.startswith(prefix) for name in self)

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays whose name starts with `prefix`, keyed by the rest of the name."""
        return {name[len(prefix) :]: self[name] for name in self if name.startswith(prefix)}


def find(*kinds: str) -> list[pathlib.Path]:
    """Golden files of some kinds, sorted within each; used to parametrise tests."""
    return [path for kind in kinds for path in sorted(GOLDEN_DIR.glob(KINDS[kind]))]


def find_core(*names: str) -> list[pathlib.Path]:
    """Files of a name in every folder of kind `cpab_core` that holds files of all the names; those of the first."""
    first, *others = names
    found = [path for path in find("cpab_core") if path.name == f"{first}.npz"]
    return [path for path in found if all((path.parent / f"{name}.npz").exists() for name in others)]


def kinds_in(folder: pathlib.Path) -> set[str]:
    """Kinds of which a folder holds files."""
    return {kind for kind, pattern in KINDS.items() if any(folder.glob(pattern))}


def size(value: int | list[int]) -> tuple[int, int]:
    """A size of `meta`, one number for a square or two, as (height, width)."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
