"""Keeps freed memory for the next example instead of handing it back to the system."""

import ctypes
import functools
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST, _KEPT = 32 << 20, 256 << 20


@functools.cache
def keep_freed_memory() -> bool:
    """Tells the C library to keep up to 256 MB of freed memory; returns whether it could be told (glibc on Linux).

    By default the pages of every array of a few megabytes are given back when it is freed and asked for again with the
    next one: for a float picture of 448x448, 600 page faults, which take as long as interpolating it. Peak memory
    stays what it is.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # The first call alone would also switch off the library's own adaptation, so both are needed.
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))
