"""Singular value decomposition of frozen kernels: once, in float64, kept on disk under a hash of content."""

import contextlib
import ctypes
import hashlib
import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ditask_jax.errors import ConfigError, WeightsError

_log = logging.getLogger(__name__)
# Part of every content hash: raise it when the numbers `factorize` returns change.
_ALGORITHM = "svd-1"
_MAGIC = b"ditask-factors 1\n"


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


def content_hash(kernel: np.ndarray, parts: int = 1) -> str:
    """SHA-256 of dtype, shape, bytes, number of parts and the version of the algorithm.

    >>> content_hash(np.eye(2), 1) == content_hash(np.eye(2), 2)
    False
    """
    kernel = np.ascontiguousarray(kernel)
    header = f"{_ALGORITHM} {kernel.dtype.str} {kernel.shape} {parts}\n"
    digest = hashlib.sha256(header.encode())
    digest.update(kernel.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def default_cache_dir() -> pathlib.Path:
    """`DITASK_CACHE_DIR`, else `XDG_CACHE_HOME/ditask_jax`, else `~/.cache/ditask_jax`."""
    if chosen := os.environ.get("DITASK_CACHE_DIR"):
        return pathlib.Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "ditask_jax"


def factorize_all(
    kernels: Mapping[str, tuple[np.ndarray, int]], cache_dir: pathlib.Path | str | None = None
) -> dict[str, Factors]:
    """`factorize` of many kernels, read from `cache_dir` where they were computed before.

    One file per kernel, named by its content hash, written to a temporary name and renamed: any number of processes may
    share the folder. A file whose bytes do not match their own hash is reported, recomputed and replaced.

    Args:
        kernels: name -> (kernel [in, out], number of parts).
        cache_dir: folder, made if missing; None computes without a cache.

    Returns:
        name -> `Factors`, in the order given.

    >>> sorted(factorize_all({"b": (np.eye(2), 1), "a": (np.eye(4), 2)}))
    ['a', 'b']
    """
    folder = None if cache_dir is None else _writable(pathlib.Path(cache_dir))
    names = list(kernels)
    # Hashing and LAPACK both release the interpreter lock.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = dict.fromkeys(names)
        if folder is not None:
            results.update(zip(names, pool.map(lambda name: _load(folder, name, *kernels[name]), names), strict=True))
        missing = [name for name in names if results[name] is None]
        if missing:
            with _one_blas_thread() as limited:
                run = pool.map if limited else map
                computed = run(lambda name: factorize(*kernels[name]), missing)
                results.update(zip(missing, computed, strict=True))
    if folder is not None:
        _save(folder, {content_hash(*kernels[name]): results[name] for name in missing})
    return results


@contextlib.contextmanager
def _one_blas_thread():
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


def _save(folder: pathlib.Path, computed: dict[str, Factors]) -> None:
    for digest, factors in computed.items():
        path = folder / f"{digest}.factors"
        try:
            _write(path, factors)
        except OSError as error:
            _log.warning("cache: cannot write %s: %s; working without a cache", path, error.strerror or error)
            return


def _load(folder: pathlib.Path, name: str, kernel: np.ndarray, parts: int) -> Factors | None:
    path = folder / f"{content_hash(kernel, parts)}.factors"
    try:
        return _read(path, kernel.shape, parts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("cache: %s: %s; computing the factors of %s again", path, error, name)
        return None


def _writable(folder: pathlib.Path) -> pathlib.Path | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("cache: cannot use folder %s: %s; working without a cache", folder, error.strerror or error)
        return None
    return folder


def _write(path: pathlib.Path, factors: Factors) -> None:
    payload = [np.ascontiguousarray(array) for array in factors]
    digest = hashlib.sha256()
    for array in payload:
        digest.update(array.reshape(-1).view(np.uint8))
    header = {"shapes": [array.shape for array in payload], "sha256": digest.hexdigest()}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + json.dumps(header).encode() + b"\n")
            for array in payload:
                file.write(array.reshape(-1).view(np.uint8))
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: pathlib.Path, kernel_shape: tuple[int, ...], parts: int) -> Factors:
    """Raises ValueError, naming what is wrong, unless the file is whole and fits the kernel."""
    inputs, width = kernel_shape[0], kernel_shape[1] // parts
    rank = min(inputs, width)
    shapes = [(parts, inputs, rank), (parts, rank), (parts, rank, width)]
    with open(path, "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("not a file of factors")
        try:
            header = json.loads(file.readline())
            stored, expected = header["shapes"], header["sha256"]
        except (ValueError, KeyError, TypeError):
            raise ValueError("damaged header") from None
        payload = np.fromfile(file, np.uint8)
    sizes = [4 * int(np.prod(shape)) for shape in shapes]
    if [tuple(shape) for shape in stored] != shapes or payload.size != sum(sizes):
        raise ValueError("damaged: wrong size")
    if hashlib.sha256(payload).hexdigest() != expected:
        raise ValueError("damaged: content does not match its hash")
    pieces = np.split(payload, np.cumsum(sizes)[:-1])
    return Factors(*(piece.view(np.float32).reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)))
