"""`benchmarks/svd.py` runs from end to end on the smallest Swin."""

import json

import pytest

from benchmarks import svd


@pytest.mark.slow
def test_decompositions_are_timed(tmp_path, capsys):
    file = tmp_path / "found.json"
    assert svd.main(["--models=swin_test", f"--json={file}"]) == 0
    found = json.loads(file.read_text())["swin_test"]
    assert set(found) == {"first_seconds", "first_cpu_seconds", "cached_seconds", "cached_cpu_seconds"}
    assert all(seconds > 0 for seconds in found.values())
    assert "| swin_test |" in capsys.readouterr().out
