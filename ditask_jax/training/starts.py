"""What a run was trained on: `starts.jsonl` has a row for every time that training was started in its folder."""

import datetime
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from ditask_jax.files import json_text, parse_json, user_path

STARTS_NAME = "starts.jsonl"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def record_start(path: Path, step: int, devices: Sequence[jax.Device]) -> None:
    """Appends a row.

    Args:
      path: the file.
      step: steps done before.
      devices: of the mesh, those of other processes included.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "step": step, **hardware(devices)}
    with open(path, "ab") as file:
        # A line that a killed process left half-written must not swallow this one.
        torn = file.tell() > 0 and path.read_bytes()[-1:] != b"\n"
        file.write(("\n" * torn + json_text(row) + "\n").encode())


def hardware(devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Devices, processor and versions, as plain data; nothing that tells whose machine it is.

    >>> found = hardware(jax.devices("cpu")[:1])
    >>> found["platform"], found["device_count"], found["processes"]
    ('cpu', 1, 1)
    """
    kinds = sorted({device.device_kind for device in devices})
    return {
        "platform": devices[0].platform if len(devices) else "unknown",
        "devices": kinds,
        "device_count": len(devices),
        "processes": jax.process_count(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    """The processor's name as Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def read_starts(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Rows of a run's `starts.jsonl`; rows that a killed process left half-written are passed over."""
    path = user_path(workdir) / STARTS_NAME
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found
