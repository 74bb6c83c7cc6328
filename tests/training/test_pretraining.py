"""Pre-training end to end, a few steps of it."""

import numpy as np
import pytest

from ditask_jax import cli, pretrain
from ditask_jax.model import create_model
from ditask_jax.tasks import create_tasks
from ditask_jax.training.experiment import load_backbone
from ditask_jax.weights import read_weights


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["swin_nano_patch2_window6", "pvt_nano"])
def test_a_few_steps_write_weights_that_load(backbone, tmp_path, capsys):
    out = tmp_path / "start.safetensors"
    arguments = [f"--out={out}", f"--backbone={backbone}", "--steps=3", "--batch-size=4"]
    assert cli.execute(pretrain.main, arguments) == cli.OK
    assert "held-out regions" in capsys.readouterr().out
    arrays, metadata = read_weights(out)
    assert metadata["architecture"] == backbone
    assert all(np.isfinite(array).all() for array in arrays.values())
    load_backbone(create_model(backbone, create_tasks("depth", dataset="scenes"), 96, widths=(4, 4, 4, 4)), out)


def test_impossible_numbers_are_refused(tmp_path, capsys):
    assert cli.execute(pretrain.main, [f"--out={tmp_path / 'x'}", "--steps=0"]) == cli.USER_ERROR
    assert "--steps: got 0" in capsys.readouterr().err
