"""Sweep files, grids, names, overrides: what is refused before anything runs, and with which words."""

import pathlib
import re
import shlex

import pytest

from ditask_jax import cli, sweep
from ditask_jax.config import load_config
from ditask_jax.errors import ConfigError
from ditask_jax.sweeps import Point, Sweep, grid, seeds
from ditask_jax.sweeps.loading import choose, load_sweep, make_jobs
from ditask_jax.sweeps.points import value_text

SMOKE = "configs/smoke.py"
PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "sweeps.md").read_text(encoding="utf-8")


def _file(folder, returned, imports="from ditask_jax.sweeps import Point, Sweep, grid, seeds"):
    path = folder / "sweep.py"
    path.write_text(f"{imports}\n\n\ndef get_sweep():\n    return {returned}\n")
    return str(path)


def test_the_smoke_sweep_has_four_points(tmp_path):
    jobs = make_jobs(load_sweep("configs/sweeps/smoke.py"), tmp_path)
    assert len(jobs) == 4
    assert {job.config.seed for job in jobs} == {0, 1}
    assert {job.config.optimizer.learning_rate for job in jobs} == {0.1, 0.05}


@pytest.mark.parametrize(("variant", "count"), [("", 432), (":nyud", 288)])
def test_the_grid_of_the_supplement(tmp_path, variant, count):
    sweep = load_sweep(f"configs/sweeps/paper_grid.py{variant}")
    assert len(sweep.points) == count
    assert len({point.name for point in sweep.points}) == count
    nyud = bool(variant)
    axes = {axis: sorted({point.axes[axis] for point in sweep.points}) for axis in sweep.points[0].axes}
    assert axes == {
        "method.shared_cells": [16, 32, 64, 128],
        "method.dropout": [0.0, 0.05, 0.5],
        "optimizer.learning_rate": [5e-4, 5e-3] if nyud else [5e-5, 5e-4, 5e-3],
        "optimizer.warmup_epochs": [10.0, 20.0, 30.0] if nyud else [20.0, 30.0, 40.0],
        "optimizer.weight_decay": [5e-5, 5e-4, 5e-3, 0.05],
    }
    (job,) = make_jobs(Sweep(sweep.points[-1:]), tmp_path)
    assert (job.config.method.shared_cells, job.config.method.task_cells) == (128, 128)
    assert job.config.optimizer.schedule == "step"
    assert job.config.data.name == ("nyud" if nyud else "pascal")


def test_axes_of_linked_fields_and_of_named_changes():
    axes = {
        ("method.shared_cells", "method.task_cells"): [16, 32],
        "rate": {"slow": {"optimizer.learning_rate": 0.1}, "fast": {"optimizer.learning_rate": 0.2, "total_steps": 3}},
    }
    points = grid("configs/scenes.py:ditask", axes, name="a")
    names = ["a_shared_cells16_slow", "a_shared_cells16_fast", "a_shared_cells32_slow", "a_shared_cells32_fast"]
    assert [point.name for point in points] == names
    assert points[3].overrides == {
        "method.shared_cells": 32,
        "method.task_cells": 32,
        "optimizer.learning_rate": 0.2,
        "total_steps": 3,
    }
    assert points[3].axes == {"method.shared_cells": 32, "rate": "fast"}


@pytest.mark.parametrize(
    ("field", "values", "names"),
    [
        ("optimizer.betas", [(0.9, 0.95), (0.9, 0.999)], ["betas0.9-0.95", "betas0.9-0.999"]),
        ("backbone.weights", ["a b/in 22k.safetensors", None], ["weights-in-22k.safetensors", "weightsnone"]),
        ("tasks", ["semseg+depth"], ["tasks-semseg+depth"]),
        ("data.fast_warp", [True], ["fast_warptrue"]),
        ("optimizer.weight_decay", [5e-5], ["weight_decay5e-05"]),
        ("head.widths", [[4, 4, 4, 4]], ["widths4-4-4-4"]),
    ],
)
def test_values_become_names_and_come_back_from_a_command_line(tmp_path, field, values, names):
    jobs = make_jobs(Sweep(grid(SMOKE, {field: values})), tmp_path)
    assert [job.name for job in jobs] == names
    for job, value in zip(jobs, values, strict=True):
        there = load_config(job.source, job.overrides)
        group, _, last = field.rpartition(".")
        found = (there[group] if group else there)[last]
        assert found == (tuple(value) if isinstance(value, list) else value)
        assert type(found) is not str or isinstance(value, str)
        assert f"--config.{field}={value_text(value)}" in job.arguments()


def test_overrides_of_points_win_over_those_of_the_sweep_and_the_command_line_wins_over_both(tmp_path):
    sweep = Sweep([Point("a", overrides={"batch_size": 4}), Point("b", "configs/scenes.py")], SMOKE, {"batch_size": 2})
    jobs = make_jobs(sweep, tmp_path, ["total_steps=9"])
    assert [job.config.batch_size for job in jobs] == [4, 2]
    assert [job.config.total_steps for job in jobs] == [9, 9]
    assert [job.config.image_size for job in jobs] == [32, 96]


def test_seeds_of_a_point_follow_each_other():
    points = seeds([Point("a", SMOKE, {"batch_size": 4}), Point("b", SMOKE)], [3, 7])
    assert [point.name for point in points] == ["a_seed3", "a_seed7", "b_seed3", "b_seed7"]
    assert points[1].overrides == {"batch_size": 4, "seed": 7}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("3", "get_sweep() returned a int, expected a Sweep"),
        ("Sweep([])", "no points"),
        ("Sweep([Point('a'), Point('A')], 'configs/smoke.py')", "two points are named 'A'"),
        ("Sweep([Point('a/b')], 'configs/smoke.py')", "point 'a/b': a name becomes a folder"),
        ("Sweep([Point('..')], 'configs/smoke.py')", "point '..': a name becomes a folder"),
        ("Sweep([Point('results')], 'configs/smoke.py')", "point 'results': the sweep keeps its tables there"),
        ("Sweep(['a'], 'configs/smoke.py')", "got 'a' among the points, expected a Point"),
        ("Sweep([Point('a')], goal='best')", "unknown name 'best'"),
        ("Sweep(grid('configs/smoke.py', {'seed': 3}))", "axis seed: got 3, expected a list of values"),
        ("Sweep(grid('configs/smoke.py', {'seed': []}))", "axis seed: no values"),
        ("Swep()", "sweep.py, line 5: NameError"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, returned, message):
    with pytest.raises(ConfigError) as caught:
        load_sweep(_file(tmp_path, returned))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_the_function(tmp_path):
    (tmp_path / "sweep.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match=r"defines no get_sweep\(\); start from \S*/configs/sweeps/smoke.py$"):
        load_sweep(str(tmp_path / "sweep.py"))


@pytest.mark.parametrize(
    ("point", "overrides", "message"),
    [
        (Point("a", SMOKE, {"optimizer.learning_rat": 1}), [], "point 'a': config: optimizer.learning_rat: unknown"),
        (Point("a", SMOKE, {"seed": -1}), [], "point 'a': config: seed: got -1"),
        (Point("a", SMOKE, {"batch_size": "many"}), [], "point 'a': config: batch_size: got 'many'"),
        (Point("a", "configs/smoky.py"), [], "point 'a': config: configs/smoky.py: no such file"),
        (Point("a"), [], "point 'a': no configuration"),
        (Point("a", SMOKE, {"seed": 1}), ["seed=2"], "--config.seed: the sweep varies this field (point 'a' has 1)"),
    ],
)
def test_a_wrong_point_is_named(tmp_path, point, overrides, message):
    with pytest.raises(ConfigError) as caught:
        make_jobs(Sweep([Point("fine", SMOKE), point]), tmp_path, overrides)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_points_are_chosen_by_patterns_in_the_order_of_the_sweep(tmp_path):
    jobs = make_jobs(Sweep(grid(SMOKE, {"seed": range(3)})), tmp_path)
    assert [job.name for job in choose(jobs, [])] == ["seed0", "seed1", "seed2"]
    assert [job.name for job in choose(jobs, ["*2", "seed0"])] == ["seed0", "seed2"]
    with pytest.raises(ConfigError, match="no point matches 'sed1'; did you mean 'seed1'"):
        choose(jobs, ["seed0", "sed1"])


def test_the_sample_of_the_page_is_a_sweep(tmp_path):
    (sample,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "sample.py").write_text(sample)
    jobs = make_jobs(load_sweep(str(tmp_path / "sample.py")), tmp_path)
    assert len(jobs) == 27
    assert jobs[0].name == "ditask_shared_cells16_learning_rate0.05_small_seed0"
    assert jobs[-1].config.method.rank == 8


@pytest.mark.parametrize("line", re.findall(r"^python -m ditask_jax\.sweep (.*)$", PAGE, flags=re.MULTILINE))
def test_the_commands_of_the_page_are_understood(line, tmp_path, capsys):
    """With another folder, and --list, so that nothing is trained or submitted."""
    words = shlex.split(line, comments=True)
    words = [f"--workdir={tmp_path}" if word.startswith("--workdir=") else word for word in words]
    words = [word for word in words if not word.startswith("--wandb=")]
    assert cli.execute(sweep.main, [*words, "--list"]) == cli.OK
    assert capsys.readouterr().out.count("new  ") in (4, 432)
