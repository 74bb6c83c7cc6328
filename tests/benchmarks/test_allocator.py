"""`benchmarks/allocator.py` runs from end to end on the smallest configuration."""

import pytest

from benchmarks import allocator


@pytest.mark.slow
def test_settings_step_in_turns(capsys):
    assert allocator.main(["--rounds=2"]) == 0
    text = capsys.readouterr().out
    assert all(f"| {name} |" in text for name in allocator.SETTINGS)
    assert "| 1.00 | 1.00 |" in text
