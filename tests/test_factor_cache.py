"""The cache of factors on disk."""

import contextlib
import logging
import multiprocessing
import os
import pathlib

import jax
import numpy as np
import pytest

from ditask_jax.errors import WeightsError
from ditask_jax.factors import Factors, content_hash, default_cache_dir, factorize, factorize_all, factorize_each
from tests.test_linalg import KERNELS

RANDOM = np.random.default_rng(1)


def _equal(a: Factors, b: Factors):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_hash_knows_content_shape_type_and_parts():
    kernel = np.arange(16, dtype=np.float32).reshape(4, 4)
    hashes = {
        content_hash(k, p)
        for k, p in [(kernel, 1), (kernel, 2), (kernel.reshape(2, 8), 1), (kernel.view(np.int32), 1), (kernel + 1, 1)]
    }
    assert len(hashes) == 5
    assert content_hash(kernel, 1) == content_hash(np.asfortranarray(kernel), 1)


def test_second_call_reads_the_cache(tmp_path, monkeypatch):
    first = factorize_all(KERNELS, tmp_path / "new" / "folder")
    assert list(first) == list(KERNELS)
    monkeypatch.setattr("ditask_jax.factors.factorize", lambda *_: pytest.fail("computed again"))
    second = factorize_all(KERNELS, tmp_path / "new" / "folder")
    assert all(_equal(first[name], second[name]) for name in KERNELS)
    assert all(np.isfinite(array).all() for factors in second.values() for array in factors)


@pytest.mark.parametrize("damage", ["flip", "truncate", "longer", "empty", "garbage", "header"])
def test_damaged_file_is_reported_and_replaced(tmp_path, damage, caplog):
    kernels = {"wide": KERNELS["wide"]}
    good = factorize_all(kernels, tmp_path)["wide"]
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    flipped = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
    lines = whole.split(b"\n", 2)
    damaged = {
        "flip": flipped,
        "truncate": whole[:-8],
        "longer": whole + b"\0",
        "empty": b"",
        "garbage": b"\x00" * 500,
        "header": b"\n".join([lines[0], b"{]", lines[2]]),
    }
    path.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING):
        again = factorize_all(kernels, tmp_path)["wide"]
    assert _equal(good, again)
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "computing the factors of wide again" in record.getMessage()
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_a_file_holds_is_taken_over_without_a_copy(tmp_path):
    kernels = {"large": (RANDOM.normal(size=(96, 96)).astype(np.float32), 3)}
    factorize_all(kernels, tmp_path)
    read = factorize_all(kernels, tmp_path)["large"]
    taken = jax.device_put(read, jax.devices("cpu")[0], may_alias=True)
    assert [array.unsafe_buffer_pointer() for array in taken] == [array.ctypes.data for array in read]


def test_kernels_are_taken_when_their_turn_comes():
    taken = []

    def kernels():
        for number in range(100):
            taken.append(number)
            yield str(number), np.eye(2, dtype=np.float32), 1

    results = factorize_each(kernels())
    assert [next(results)[0] for _ in range(3)] == ["0", "1", "2"]
    assert len(taken) <= 3 + 8
    results.close()


def test_what_was_computed_before_an_error_is_kept(tmp_path):
    kernels = KERNELS | {"broken": (np.full((2, 2), np.nan, np.float32), 1)}
    with pytest.raises(WeightsError, match="not finite"):
        factorize_all(kernels, tmp_path)
    assert len(list(tmp_path.iterdir())) == len(KERNELS)


def test_a_library_with_threads_of_its_own_decomposes_one_by_one(monkeypatch):
    running, most = [], []

    def watched(kernel, parts):
        running.append(kernel)
        most.append(len(running))
        found = factorize(kernel, parts)
        running.pop()
        return found

    monkeypatch.setattr("ditask_jax.factors.one_blas_thread", lambda: contextlib.nullcontext(False))
    monkeypatch.setattr("ditask_jax.factors.factorize", watched)
    kernel = RANDOM.normal(size=(64, 64)).astype(np.float32)
    assert len(factorize_all({str(number): (kernel + number, 1) for number in range(8)})) == 8
    assert most == [1] * 8


def test_unusable_folder_is_reported_and_not_needed(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        factors = factorize_all(KERNELS, blocked / "cache")
    assert _equal(factors["wide"], factorize(*KERNELS["wide"]))
    (record,) = caplog.records
    assert "working without a cache" in record.getMessage()


def test_unwritable_file_is_reported_once(tmp_path, caplog, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ditask_jax.factors.tempfile.mkstemp", refuse)
    with caplog.at_level(logging.WARNING):
        factors = factorize_all(KERNELS, tmp_path)
    assert set(factors) == set(KERNELS)
    (record,) = caplog.records
    assert "Permission denied; working without a cache" in record.getMessage()


def _work(folder, queue):
    queue.put(float(factorize_all(KERNELS, folder)["wide"].singular_values.sum()))


def test_processes_may_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_work, args=(tmp_path, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    sums = {queue.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sums == {float(factorize(*KERNELS["wide"]).singular_values.sum())}
    assert len(list(tmp_path.iterdir())) == len(KERNELS)


def test_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("DITASK_CACHE_DIR", "/somewhere")
    assert default_cache_dir() == pathlib.Path("/somewhere")
    monkeypatch.delenv("DITASK_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", f"{os.sep}xdg")
    assert default_cache_dir() == pathlib.Path("/xdg/ditask_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == pathlib.Path.home() / ".cache" / "ditask_jax"
