"""The packages whose tests are measured: their files, and the tests that are about them."""

import dataclasses
from pathlib import Path

from ditask_jax.errors import ConfigError, check_known

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Package:
    """Files and tests, as patterns from the root of the checkout; of tests, the quick ones first."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


PACKAGES = {
    "cpab": Package(
        ("ditask_jax/cpab/*.py",),
        ("tests/cpab", "tests/parity/test_cpab_core.py", "tests/parity/test_cpab.py", "ditask_jax/cpab"),
    ),
    "adapters": Package(
        ("ditask_jax/adapters/*.py", "ditask_jax/adapters/methods/*.py"),
        ("tests/test_plugins.py", "tests/adapters", "tests/parity/test_linears.py", "ditask_jax/adapters"),
    ),
    "tasks": Package(
        ("ditask_jax/tasks/*.py",),
        (
            "tests/tasks",
            "tests/prediction/test_raw.py",
            "tests/parity/test_losses.py",
            "tests/parity/test_metrics.py",
            "ditask_jax/tasks",
            "tests/test_plugins.py",
        ),
    ),
    "checkpoints": Package(
        ("ditask_jax/training/checkpoints.py", "ditask_jax/training/manifest.py"),
        (
            "tests/training/test_manifest.py",
            "tests/training/test_checkpoints.py",
            "ditask_jax/training/checkpoints.py",
            "ditask_jax/training/manifest.py",
        ),
    ),
}


def package(name: str) -> Package:
    """A package by name.

    Raises:
      ConfigError: there is no such package.
    """
    check_known("command line: PACKAGE", name, PACKAGES)
    return PACKAGES[name]


def files(name: str) -> list[Path]:
    """The files of a package.

    Raises:
      ConfigError: its patterns fit nothing any more.
    """
    found = sorted(path for pattern in package(name).files for path in ROOT.glob(pattern))
    if not found:
        raise ConfigError(f"mutation: {name}: no file fits {' '.join(package(name).files)}")
    return found
