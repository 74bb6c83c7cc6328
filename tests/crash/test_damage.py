"""Damaged checkpoint files: the short form of `python -m tests.crash.damage`."""

from tests.crash.damage import CHANGES, damage_files


def test_no_damaged_file_restores_silently(tmp_path):
    counts, silent = damage_files(tmp_path / "checkpoints", trials=300)
    assert silent == []
    assert sum(counts.values()) == 300
    assert len(counts) == len(CHANGES) + 3
