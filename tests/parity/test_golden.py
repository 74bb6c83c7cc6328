"""The folder of golden files: what it must hold, folders that hold less, and files for images of other sizes."""

import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from ditask_jax.nn import flatten, split_state
from tests.backbones.test_fitting import cubic, interpolated, linear
from tests.parity import test_pvt, test_vit
from tests.parity.golden import GOLDEN_DIR, KINDS, OWN, Golden, find, kinds_in, size


def test_the_folder_holds_golden_files():
    found = kinds_in(GOLDEN_DIR)
    assert found, f"{GOLDEN_DIR} holds no golden file; expected files called {' '.join(KINDS.values())}"
    if OWN:
        assert found == set(KINDS)


@pytest.mark.skipif(not OWN, reason="the files of the folder given decide what is collected")
def test_kinds_that_a_folder_lacks_are_not_collected(tmp_path):
    """A folder with one file, of another name than ours: its tests, no test of another kind, and none skipped."""
    shutil.copy(find("schedules")[0], tmp_path / "schedules_of_another_set.npz")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/parity"]
    environment = os.environ | {"DITASK_GOLDEN_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    files = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert files == {"tests/parity/test_schedules.py", "tests/parity/test_golden.py"}
    assert "schedules_of_another_set" in done.stdout
    assert "NOTSET" not in done.stdout


def _other_sizes():
    for path in find("pvt_v1", "vit"):
        yield pytest.param(
            path, *((test_vit, cubic) if path.stem.startswith("vit") else (test_pvt, linear)), id=path.stem
        )


@pytest.mark.parametrize(("path", "module", "kernel"), list(_other_sizes()))
def test_a_model_made_for_one_size_is_read_at_another(path, module, kernel, tmp_path):
    """Weights are loaded before a program is traced, with position tables resized as an independent formula has it."""
    file = dict(np.load(path))
    # Whole patches of every stage, whatever size the file is for.
    made_for = size(Golden(path).meta["img" if module is test_vit else "img_model"])
    step = Golden(path).meta["patch"] if module is test_vit else 32
    height, width = (step * round(length * factor / step) for length, factor in zip(made_for, (1.5, 2), strict=True))
    file["in/x"] = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float16)
    np.savez(tmp_path / path.name, **file)
    case = module.Case(tmp_path / path.name)
    assert jax.eval_shape(case.forward, case.images)["logits"].shape[0] == 1
    for model in case.backbones.values():
        parts = split_state(model)
        values = flatten(parts.trainable) | flatten(parts.frozen)
        for name, here in model.grid_rows().items():
            theirs, ours = case.arrays[f"backbone/{name}"].astype(float), np.asarray(values[name])
            rows = round(((len(theirs) - here.leading) * made_for[0] / made_for[1]) ** 0.5)
            grid = (rows, (len(theirs) - here.leading) // rows)
            expected = interpolated(theirs[here.leading :], grid, here.grid, kernel)
            np.testing.assert_allclose(ours[here.leading :], expected, atol=1e-5)
            np.testing.assert_array_equal(ours[: here.leading], theirs[: here.leading])
