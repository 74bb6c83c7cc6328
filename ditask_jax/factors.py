"""Singular value decompositions of frozen kernels, and a cache of them on disk."""

import contextlib
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import tempfile
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, NamedTuple

import numpy as np

from ditask_jax.errors import ConfigError, WeightsError
from ditask_jax.files import user_path
from ditask_jax.shell import one_blas_thread

# Singular value decomposition of frozen kernels, in float64 on the host.


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


# Factors of frozen kernels, decomposed once and kept on disk under a hash of content.


_log = logging.getLogger(__name__)
# Part of every content hash: raise it when the numbers `factorize` returns change.
_ALGORITHM = "svd-1"
# Format of the files: part of their names too, so that others are left alone.
_VERSION = 2
_MAGIC = f"ditask-factors {_VERSION}\n".encode()
# Bytes read from a file and summed at a time: few enough to be in the processor's cache still when they are summed.
_PIECE = 1 << 18
# Bytes: arrays that start at a multiple of it are taken over by JAX on CPUs without a copy.
_ALIGNMENT = 64


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


def default_cache_dir() -> pathlib.Path | None:
    """`DITASK_CACHE_DIR`, else `XDG_CACHE_HOME/ditask_jax`, else `~/.cache/ditask_jax`; None for one without a home."""
    if chosen := os.environ.get("DITASK_CACHE_DIR"):
        return user_path(chosen, "environment: DITASK_CACHE_DIR")
    if base := os.environ.get("XDG_CACHE_HOME"):
        return user_path(base, "environment: XDG_CACHE_HOME") / "ditask_jax"
    try:
        if os.environ.get("HOME") == "":
            raise RuntimeError("HOME is empty")  # it would be the root of the file system
        return pathlib.Path.home() / ".cache" / "ditask_jax"
    except RuntimeError as error:  # no HOME, and a user whom the machine does not know
        _log.warning("cache: %s; working without a cache, or set DITASK_CACHE_DIR", error)
        return None


def factorize_each(
    kernels: Iterable[tuple[str, np.ndarray, int]], cache_dir: pathlib.Path | str | None = None
) -> Iterator[tuple[str, Factors]]:
    """`factorize` of one kernel after another, read from `cache_dir` where they were computed before.

    Cores work side by side on the next few kernels; these are taken from the iterable when their turn comes, and let go
    when their factors are there.

    One file per kernel, named by its content hash, written to a temporary name and renamed as soon as it is computed:
    any number of processes may share the folder, and one that is stopped begins again where it was. A file whose bytes
    do not match their own checksum is reported, recomputed and replaced.

    Args:
        kernels: (name, kernel [in, out], number of parts).
        cache_dir: folder, made if missing; None computes without a cache.

    Yields:
        (name, `Factors`), in the order given.

    Raises:
        ConfigError, WeightsError: as `factorize`.

    >>> [name for name, factors in factorize_each([("b", np.eye(2), 1), ("a", np.eye(4), 2)])]
    ['b', 'a']
    """
    cores = min(8, os.cpu_count() or 1)
    waiting: deque[tuple[str, Future[Factors]]] = deque()
    # Hashing, reading and LAPACK release the interpreter lock. Parallel over kernels instead of inside a decomposition:
    # OpenBLAS's threads gain nothing at these sizes, and on a busy machine they wait for each other (Swin-Tiny took
    # 40 s instead of 8).
    with one_blas_thread() as limited, ThreadPoolExecutor(cores) as pool:
        source = _Source(cache_dir, contextlib.nullcontext() if limited else threading.Lock())
        for name, kernel, parts in kernels:
            waiting.append((name, pool.submit(source.factors, name, kernel, parts)))
            del kernel
            if len(waiting) > cores:
                yield _first(waiting)
        while waiting:
            yield _first(waiting)


def _first(waiting: deque[tuple[str, Future[Factors]]]) -> tuple[str, Factors]:
    name, future = waiting.popleft()
    return name, future.result()


def factorize_all(
    kernels: Mapping[str, tuple[np.ndarray, int]], cache_dir: pathlib.Path | str | None = None
) -> dict[str, Factors]:
    """All of `factorize_each` at once.

    Args:
        kernels: name -> (kernel [in, out], number of parts).
        cache_dir: folder, made if missing; None computes without a cache.

    Returns:
        name -> `Factors`, in the order given.

    >>> sorted(factorize_all({"b": (np.eye(2), 1), "a": (np.eye(4), 2)}))
    ['a', 'b']
    """
    return dict(factorize_each(((name, *kernel) for name, kernel in kernels.items()), cache_dir))


class _Source:
    """Factors from a folder of files, or computed and then put there; used by several threads at once.

    Args:
        cache_dir: the folder, None for no cache.
        computing: held while a kernel is decomposed.
    """

    def __init__(self, cache_dir: pathlib.Path | str | None, computing: contextlib.AbstractContextManager):
        self._folder = None if cache_dir is None else _writable(user_path(cache_dir, "cache_dir"))
        self._computing = computing
        self._complaining = threading.Lock()

    def factors(self, name: str, kernel: np.ndarray, parts: int) -> Factors:
        folder = self._folder
        path = folder and folder / f"{content_hash(kernel, parts)}.factors{_VERSION}"
        found = path and _load(path, name, kernel.shape, parts)
        if found is None:
            with self._computing:
                found = factorize(kernel, parts)
            if path:
                self._save(path, found)
        return found

    def _save(self, path: pathlib.Path, factors: Factors) -> None:
        try:
            _write(path, factors)
        except OSError as error:
            with self._complaining:
                if self._folder is not None:
                    self._folder = None
                    problem = error.strerror or error
                    _log.warning("cache: cannot write %s: %s; working without a cache", path, problem)


def _load(path: pathlib.Path, name: str, shape: tuple[int, ...], parts: int) -> Factors | None:
    try:
        return _read(path, shape, parts)
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
    crc = 0
    for array in payload:
        crc = zlib.crc32(array.reshape(-1).view(np.uint8), crc)
    header = {"shapes": [array.shape for array in payload], "crc32": crc}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + json.dumps(header, allow_nan=False).encode() + b"\n")
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
        if (magic := file.read(len(_MAGIC))) != _MAGIC:
            number = re.fullmatch(rb"ditask-factors (\d+)\n?", magic)
            raise ValueError(
                f"format {int(number[1])}, this version reads format {_VERSION}" if number else "not a file of factors"
            )
        try:
            header = json.loads(file.readline())
            stored, expected = header["shapes"], header["crc32"]
        except (ValueError, KeyError, TypeError):
            raise ValueError("damaged header") from None
        if [tuple(shape) for shape in stored] != shapes:
            raise ValueError("damaged: wrong size")
        # Against damage, not against forgery, and twice as fast as SHA-256: reading and summing is what a start costs.
        arrays, crc = [], 0
        for shape in shapes:
            array, crc = _read_array(file, shape, crc)
            arrays.append(array)
        if file.read(1):
            raise ValueError("damaged: wrong size")
    if crc != expected:
        raise ValueError("damaged: content does not match its checksum")
    return Factors(*arrays)


def _read_array(file: BinaryIO, shape: tuple[int, ...], crc: int) -> tuple[np.ndarray, int]:
    """The next float32 array of a file, and the running CRC-32 with its bytes in it."""
    size = 4 * math.prod(shape)
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    array = memory[start : start + size]
    for place in range(0, size, _PIECE):
        piece = array[place : place + _PIECE]
        if file.readinto(piece) != piece.size:
            raise ValueError("damaged: wrong size")
        crc = zlib.crc32(piece, crc)
    return array.view(np.float32).reshape(shape), crc
