"""Wrong configurations: the short form of `python -m tests.crash.wrong_configs`."""

import pytest

from tests.crash.wrong_configs import cases, complaints


def test_a_wrong_configuration_is_one_line_that_names_the_field(tmp_path):
    tried = list(cases(120, seed=1))
    found = [line for case in tried for line in complaints(case, str(tmp_path / "run"))]
    assert found == []
    assert len({case.field for case in tried}) > 50
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_five_hundred_wrong_configurations(tmp_path):
    assert [line for case in cases(500) for line in complaints(case, str(tmp_path / "run"))] == []
