"""The rooms whose tests are measured: their files, and the tests that are about them."""

import dataclasses
from pathlib import Path

from ditask_jax.errors import ConfigError, check_known

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Room:
    """Files and tests, as patterns from the root of the checkout; of tests, the quick ones first."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


ROOMS = {
    "cpab": Room(
        ("ditask_jax/cpab/*.py",),
        ("tests/cpab", "tests/parity/test_cpab_core.py", "tests/parity/test_cpab.py", "ditask_jax/cpab"),
    ),
    "adapters": Room(
        ("ditask_jax/adapters/*.py", "ditask_jax/adapters/methods/*.py"),
        ("tests/adapters", "tests/parity/test_linears.py", "ditask_jax/adapters"),
    ),
    "tasks": Room(
        ("ditask_jax/tasks/*.py",),
        ("tests/tasks", "tests/parity/test_losses.py", "tests/parity/test_metrics.py", "ditask_jax/tasks"),
    ),
    "checkpoints": Room(
        ("ditask_jax/training/checkpoints.py", "ditask_jax/training/manifest.py"),
        (
            "tests/training/test_checkpoints.py",
            "ditask_jax/training/checkpoints.py",
            "ditask_jax/training/manifest.py",
        ),
    ),
}


def room(name: str) -> Room:
    """A room by name.

    Raises:
      ConfigError: there is no such room.
    """
    check_known("command line: ROOM", name, ROOMS)
    return ROOMS[name]


def files(name: str) -> list[Path]:
    """The files of a room.

    Raises:
      ConfigError: its patterns fit nothing any more.
    """
    found = sorted(path for pattern in room(name).files for path in ROOT.glob(pattern))
    if not found:
        raise ConfigError(f"mutation: {name}: no file fits {' '.join(room(name).files)}")
    return found
