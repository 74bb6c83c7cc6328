"""Pre-training end to end, a few steps of it."""

import numpy as np
import pytest

from ditask_jax import cli, pretrain
from ditask_jax.weights import read_weights


@pytest.mark.slow
def test_a_few_steps_write_weights_that_load(tmp_path, capsys):
    out = tmp_path / "start.safetensors"
    assert cli.execute(pretrain.main, [f"--out={out}", "--steps=3", "--batch_size=4"]) == cli.OK
    assert "held-out regions" in capsys.readouterr().out
    arrays, metadata = read_weights(out)
    assert metadata["architecture"] == "swin_nano_patch2_window6"
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_impossible_numbers_are_refused(tmp_path, capsys):
    assert cli.execute(pretrain.main, [f"--out={tmp_path / 'x'}", "--steps=0"]) == cli.USER_ERROR
    assert "--steps: got 0" in capsys.readouterr().err
