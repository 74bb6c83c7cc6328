"""Sharing one machine out: which cores or accelerators each of several trainings at once may use."""

import contextlib
import dataclasses
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from ditask_jax.errors import ConfigError

_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_MEMORY = 0.9  # of an accelerator, shared out among the trainings on it


@dataclasses.dataclass(frozen=True)
class Share:
    """What one training may use.

    Attributes:
        cores: Processor cores; empty: all of them.
        devices: Accelerators, as `CUDA_VISIBLE_DEVICES` names them; empty: none, or whatever JAX finds.
        fraction: Part of the memory of its accelerators; None: as JAX does by itself.
    """

    cores: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    fraction: float | None = None

    def environment(self) -> dict[str, str]:
        """Variables that hold a training to this share."""
        found = {"CUDA_VISIBLE_DEVICES": ",".join(self.devices)} if self.devices else {}
        return found | ({} if self.fraction is None else {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{self.fraction:.2f}"})

    def __str__(self) -> str:
        if self.devices:
            part = "" if self.fraction is None else f" ({self.fraction:.0%} of its memory)"
            return f"GPU {','.join(self.devices)}{part}"
        return f"cores {','.join(map(str, self.cores))}" if self.cores else "all cores"


def find_devices(environment: Mapping[str, str]) -> tuple[str, ...]:
    """NVIDIA GPUs that trainings started in this environment would use; none where JAX is told to stay on the CPU.

    >>> find_devices({"CUDA_VISIBLE_DEVICES": "2,3"})
    ('2', '3')
    >>> find_devices({"CUDA_VISIBLE_DEVICES": "2,3", "JAX_PLATFORMS": "cpu"})
    ()
    """
    if environment.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return ()
    if "CUDA_VISIBLE_DEVICES" in environment:
        named = environment["CUDA_VISIBLE_DEVICES"].split(",")
        return tuple(name.strip() for name in named if name.strip() not in ("", "-1"))
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is None or not any(importlib.util.find_spec(name) for name in _PLUGINS):
        return ()  # no GPU, or a JAX that knows of none
    options = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "check": False}
    listed = subprocess.run([program, "-L"], **options).stdout.splitlines()
    return tuple(str(number) for number, _ in enumerate(line for line in listed if line.startswith("GPU ")))


def find_cores() -> tuple[int, ...]:
    """Cores that this process may use; empty where the system does not tell."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def make_shares(jobs: int | None, devices: Sequence[str] = (), cores: Sequence[int] = ()) -> list[Share]:
    """Shares of a machine for so many trainings at once.

    Args:
        jobs: How many; None: one per accelerator, or one alone on a machine without.
        devices: Its accelerators.
        cores: Its cores; trainings on accelerators are not held to cores.

    Returns:
        One share per training. Each gets as many accelerators or cores as all others; where there are more trainings
        than that, several share one.

    Raises:
        ConfigError: Fewer than one.

    >>> [str(share) for share in make_shares(2, cores=(0, 1, 2, 3, 4))]
    ['cores 0,1', 'cores 2,3']
    >>> [str(share) for share in make_shares(None, devices=("0", "1"), cores=(0, 1))]
    ['GPU 0', 'GPU 1']
    >>> [str(share) for share in make_shares(3, devices=("0", "1"))][-1]
    'GPU 0 (45% of its memory)'
    """
    if jobs is None:
        jobs = max(len(devices), 1)
    if jobs < 1:
        raise ConfigError(f"command line: --jobs: got {jobs}, expected at least 1")
    if devices:
        together = -(-jobs // len(devices))
        fraction = None if together == 1 else _MEMORY / together
        return [Share(devices=part, fraction=fraction) for part in _parts(devices, jobs)]
    if jobs == 1 or not cores:
        return [Share()] * jobs
    return [Share(cores=part) for part in _parts(cores, jobs)]


def _parts(items: Sequence, count: int) -> list[tuple]:
    """Equal parts, so that every training computes alike; a remainder stays idle."""
    each = len(items) // count
    if each == 0:
        return [(items[number % len(items)],) for number in range(count)]
    return [tuple(items[number * each : (number + 1) * each]) for number in range(count)]


@contextlib.contextmanager
def held_to(cores: Sequence[int]) -> Iterator[None]:
    """Processes started inside are held to these cores; this thread itself is free again afterwards."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
