"""Atomic writes: the old content or the new, never a part, and nothing left behind."""

import json
import os
import stat

import pytest

from ditask_jax.files import atomic_write, atomic_write_json, atomic_write_text


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path):
    path = atomic_write_text(tmp_path / "new" / "a.txt", "old")

    def half(file):
        file.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, half)
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_files_are_shared_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        path = atomic_write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_json_keeps_every_bit_and_the_order(tmp_path):
    value = {"z": 1 / 3, "a": [1, None, "ä"], "m": 5e-324}
    path = atomic_write_json(tmp_path / "a.json", value)
    assert json.loads(path.read_text()) == value
    assert list(json.loads(path.read_text())) == ["z", "a", "m"]
    assert "ä" in path.read_text(encoding="utf-8")
