"""How much memory training has taken so far, as its devices or, where they do not tell, the process say."""

import resource
from collections.abc import Iterable

import jax

_UNIT = 1024  # of ru_maxrss on Linux


def peak_memory(devices: Iterable[jax.Device]) -> dict[str, int]:
    """Largest memory in use so far, in bytes, for the metrics log.

    Equal runs may differ in it, like in their times, so its key stands under `time/` as well.

    Args:
      devices: those of this process.

    Returns:
      `time/device_memory`, of the device that used most; on devices that keep no account of it (a CPU)
      `time/process_memory`, of the whole process: program, compiler and data included.

    >>> list(peak_memory(jax.devices("cpu")))
    ['time/process_memory']
    """
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in devices]
    known = [peak for peak in peaks if peak is not None]
    if known:
        return {"time/device_memory": max(known)}
    return {"time/process_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT}
