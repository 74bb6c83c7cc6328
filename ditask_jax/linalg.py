"""Singular value decomposition of frozen kernels, in float64 on the host; `factor_cache` keeps the results."""

import contextlib
import ctypes
import pathlib
from typing import NamedTuple

import numpy as np

from ditask_jax.errors import ConfigError, WeightsError


class Factors(NamedTuple):
    """`kernel[:, part p] = left[p] @ diag(singular_values[p]) @ right[p]`, all float32.

    Shapes: left [P, in, R], singular_values [P, R] descending, right [P, R, out / P]; R = min(in, out / P)
    """

    left: np.ndarray
    singular_values: np.ndarray
    right: np.ndarray


def factorize(kernel: np.ndarray, parts: int = 1) -> Factors:
    """Singular value decomposition of each of `parts` equal column blocks (q, k, v) of a kernel, computed in float64.

    The sign of each pair of singular vectors is fixed: the largest-magnitude entry of a left vector is positive.

    Shapes: kernel [in, out] -> `Factors`

    Raises:
        ConfigError: not a matrix, or `out` does not divide into `parts`.
        WeightsError: entries that are not finite.

    >>> factors = factorize(np.diag([3.0, 2.0, 1.0]))
    >>> factors.singular_values.tolist()
    [[3.0, 2.0, 1.0]]
    """
    kernel = np.asarray(kernel)
    if kernel.ndim != 2:
        raise ConfigError(f"linear: kernel: got shape {kernel.shape}, expected [in, out]")
    if parts < 1 or kernel.shape[1] % parts:
        raise ConfigError(f"linear: kernel: {kernel.shape[1]} outputs do not split into {parts} equal parts")
    if not np.isfinite(kernel).all():
        raise WeightsError(f"linear: kernel of shape {kernel.shape} holds values that are not finite")
    blocks = [_factorize_block(block) for block in np.split(kernel.astype(np.float64), parts, axis=1)]
    return Factors(*(np.stack(arrays).astype(np.float32) for arrays in zip(*blocks, strict=True)))


def _factorize_block(block: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, values, right = np.linalg.svd(block, full_matrices=False)
    rows = np.argmax(np.abs(left), axis=0)
    sign = np.where(left[rows, np.arange(left.shape[1])] < 0, -1.0, 1.0)
    return left * sign, values, right * sign[:, None]


@contextlib.contextmanager
def one_blas_thread():
    """Holds NumPy's OpenBLAS to one thread per call, yielding whether that worked.

    Parallel over kernels instead of inside a decomposition: OpenBLAS's threads gain nothing at these sizes, and on a
    busy machine they wait for each other (Swin-Tiny took 40 s instead of 8).
    """
    package = pathlib.Path(np.__file__).parent
    for path in [*package.parent.glob("numpy.libs/*openblas*"), *package.glob(".dylibs/*openblas*")]:
        try:
            library = ctypes.CDLL(str(path))
            get, put = library.scipy_openblas_get_num_threads64_, library.scipy_openblas_set_num_threads64_
        except (OSError, AttributeError):
            continue
        before = get()
        put(1)
        try:
            yield True
        finally:
            put(before)
        return
    yield False
