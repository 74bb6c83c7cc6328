"""Atomic writes: the old content or the new, never a part, and nothing left behind."""

import json
import os
import stat

import numpy as np
import pytest

from ditask_jax.files import atomic_write, atomic_write_json, atomic_write_text, json_text, parse_json


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


def test_json_has_null_for_what_is_no_finite_number(tmp_path):
    bad = [float("nan"), float("inf"), -float("inf"), np.float64("nan")]
    value = {"a": bad[0], "b": [1.5, (bad[1], {"c": bad[2]})], "d": {"e": bad[3], "f": True, "g": "NaN", "h": 2**70}}
    expected = {"a": None, "b": [1.5, [None, {"c": None}]], "d": {"e": None, "f": True, "g": "NaN", "h": 2**70}}
    texts = [json_text(value), json_text(value, indent=2), json_text(value, ascii=True)]
    texts.append(atomic_write_json(tmp_path / "a.json", value).read_text())
    for text in texts:
        assert json.loads(text, parse_constant=pytest.fail) == expected
    assert value["a"] is bad[0]  # the value itself is left alone


def test_files_of_older_versions_are_read():
    """Python writes and reads NaN and Infinity unless told otherwise."""
    old = json.dumps({"a": float("nan"), "b": [float("inf"), -float("inf"), 1.0]})
    assert parse_json(old) == {"a": None, "b": [None, None, 1.0]}
    assert parse_json(old.encode()) == parse_json(old)
    with pytest.raises(ValueError, match="Expecting"):
        parse_json("{")
