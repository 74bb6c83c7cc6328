"""Axes as a search space, and the files for W&B and SLURM made from them."""

import os
import shlex
import stat
import subprocess
import sys

import pytest
import yaml

from ditask_jax import cli, sweep
from ditask_jax.errors import ConfigError
from ditask_jax.sweeps import Point, Sweep, grid
from ditask_jax.sweeps.loading import make_jobs
from ditask_jax.sweeps.searching import make_space, wandb_file
from ditask_jax.sweeps.slurm_array import submit, write_script

SMOKE = "configs/smoke.py"
FILE = "configs/sweeps/smoke.py"
AXES = {"optimizer.learning_rate": [0.1, 5e-05], "seed": [0, 1]}


def _jobs(folder, points):
    return make_jobs(Sweep(points), folder)


def test_a_grid_is_a_space_of_its_axes(tmp_path):
    space = make_space(_jobs(tmp_path, grid(SMOKE, AXES)))
    assert space.values == {"optimizer.learning_rate": ("0.1", "5e-05"), "seed": ("0", "1")}
    assert space.is_grid
    assert space.job({"optimizer.learning_rate": "0.00005", "seed": "1"}).name == "learning_rate5e-05_seed1"


def test_anything_else_is_a_space_of_names(tmp_path):
    points = [*grid(SMOKE, AXES)[:3], Point("other", SMOKE)]
    space = make_space(_jobs(tmp_path, points))
    assert space.values == {"point": tuple(point.name for point in points)}
    assert not space.is_grid
    assert space.job({"point": "other"}).name == "other"


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"seed": "0"}, "no value of optimizer.learning_rate; give one of 0.1 5e-05"),
        ({"optimizer.learning_rate": "0.1", "seed": "2"}, "seed: got '2', expected one of 0 1"),
        ({"optimizer.learning_rate": "0.1", "seed": "0", "batch_size": "1"}, "'batch_size' is no axis of it"),
    ],
)
def test_a_choice_that_is_no_point(tmp_path, chosen, message):
    with pytest.raises(ConfigError, match=message):
        make_space(_jobs(tmp_path, grid(SMOKE, AXES))).job(chosen)


def test_the_file_for_wandb(tmp_path):
    jobs = _jobs(tmp_path, grid(SMOKE, AXES))
    arguments = [FILE, "--workdir=runs/a b", "--config.data.threads=2"]
    found = yaml.safe_load(wandb_file(Sweep([], metric="semseg/mIoU"), make_space(jobs), arguments))
    assert found == {
        "program": "ditask_jax.sweep",
        "method": "grid",
        "metric": {"name": "val/tasks/semseg/mIoU", "goal": "maximize"},
        "parameters": {
            "config.optimizer.learning_rate": {"values": ["0.1", "5e-05"]},
            "config.seed": {"values": ["0", "1"]},
        },
        "command": ["${env}", "python", "-m", "ditask_jax.sweep", *arguments, "--pick", "${args}"],
    }
    names = make_space(_jobs(tmp_path, [Point("a", SMOKE), Point("b", SMOKE)]))
    found = yaml.safe_load(wandb_file(Sweep([], goal="min"), names, arguments))
    assert found["parameters"] == {"only": {"values": ["a", "b"]}}
    assert found["metric"] == {"name": "val/delta_m", "goal": "minimize"}
    assert "--pick" not in found["command"]


def test_what_wandb_starts_names_one_point(tmp_path, capsys):
    """The command of the file, with arguments as an agent writes them."""
    arguments = [FILE, f"--workdir={tmp_path}", "--pick", "--list"]
    assert cli.execute(sweep.main, [*arguments, "--config.optimizer.learning_rate=0.05", "--config.seed=1"]) == cli.OK
    assert capsys.readouterr().out.split()[:2] == ["new", "learning_rate0.05_seed1"]
    arguments += ["--config.seed=0", "--config.optimizer.learning_rate=0.1", "--config.total_steps=4"]
    assert cli.execute(sweep.main, arguments) == cli.OK
    listed = capsys.readouterr().out
    assert "learning_rate0.1_seed0" in listed
    assert "total_steps=4" in listed
    assert cli.execute(sweep.main, [FILE, f"--workdir={tmp_path}", "--pick", "--config.seed=0"]) == cli.USER_ERROR
    assert "no value of optimizer.learning_rate" in capsys.readouterr().err


def test_a_picked_point_says_once_what_is_dropped(tmp_path, capsys):
    file = tmp_path / "methods.py"
    file.write_text(
        "from ditask_jax.sweeps import Sweep, grid\n"
        f"get_sweep = lambda: Sweep(grid({SMOKE!r}, {{'method.name': ['lora'], 'seed': [0, 1]}}))\n"
    )
    arguments = [str(file), f"--workdir={tmp_path}", "--pick", "--list", "--config.method.name=lora", "--config.seed=1"]
    assert cli.execute(sweep.main, arguments) == cli.OK
    assert capsys.readouterr().err.count("drops its options") == 1


def test_the_command_writes_the_file_for_wandb(tmp_path, capsys):
    file = tmp_path / "grid.yaml"
    assert cli.execute(sweep.main, [FILE, f"--workdir={tmp_path / 'w'}", f"--wandb={file}"]) == cli.OK
    assert f"wandb sweep {file}" in capsys.readouterr().out
    assert "config.optimizer.learning_rate" in file.read_text()


def _program(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _script(folder, **options):
    jobs = _jobs(folder / "runs", grid(SMOKE, AXES))
    return write_script(jobs, folder / "runs", [FILE, f"--workdir={folder / 'runs'}"], **options)


def test_the_batch_script(tmp_path, monkeypatch):
    monkeypatch.setenv("DITASK_PLUGINS", "my task.py")
    script = _script(tmp_path, options="--partition=gpu --gpus=1", at_once=2)
    text = script.read_text()
    for line in ("--array=0-3%2", "--partition=gpu", "--gpus=1", "--requeue", "--signal=B:TERM@180"):
        assert f"#SBATCH {line}\n" in text
    assert "export DITASK_PLUGINS='my task.py'\n" in text
    assert (tmp_path / "runs" / "slurm" / "points.txt").read_text().split()[3] == "learning_rate5e-05_seed1"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    spaced = _script(tmp_path / "my runs", options="--comment='two words'").read_text()
    (words,) = (shlex.split(line) for line in spaced.splitlines() if "--output=" in line)
    assert words == ["#SBATCH", f"--output={tmp_path / 'my runs' / 'runs' / 'slurm' / '%A_%a.out'}"]
    assert "#SBATCH '--comment=two words'\n" in spaced
    with pytest.raises(ConfigError, match="'gpu': write options of sbatch as --NAME=VALUE"):
        _script(tmp_path, options="--partition gpu")


def test_a_task_of_the_array_trains_its_point_and_comes_back_when_told_to_stop(tmp_path):
    """The script itself, by bash, with a program in the place of Python that writes down how it was called."""
    script = _script(tmp_path)
    python = tmp_path / "bin" / "python"
    _program(python, f'printf "%s\\n" "$@" > {tmp_path}/called; exit "$(cat {tmp_path}/code)"')
    _program(tmp_path / "bin" / "scontrol", f'echo "$@" > {tmp_path}/requeued')
    script.write_text(script.read_text().replace(shlex.quote(sys.executable), str(python)))
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "2"}
    environment |= {"SLURM_ARRAY_JOB_ID": "77"}
    for code, expected, requeued in [(0, 0, False), (1, 1, False), (75, 0, True)]:
        (tmp_path / "code").write_text(str(code))
        done = subprocess.run(["bash", str(script)], env=environment, check=False, timeout=60)
        assert done.returncode == expected
        assert (tmp_path / "requeued").exists() == requeued
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "77_2"]
    called = (tmp_path / "called").read_text().splitlines()
    assert called == [
        "-m",
        "ditask_jax.sweep",
        FILE,
        f"--workdir={tmp_path / 'runs'}",
        "--only=learning_rate5e-05_seed0",
        "--jobs=1",
    ]


def test_submitting(tmp_path):
    script = _script(tmp_path)
    sbatch = tmp_path / "bin" / "sbatch"
    here = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    assert submit(script, {"PATH": str(tmp_path / "nothing")}) is None
    _program(sbatch, 'echo "Submitted batch job 5 $1"')
    assert submit(script, here) == f"Submitted batch job 5 {script}"
    _program(sbatch, 'echo "sbatch: error: invalid account" >&2; exit 1')
    with pytest.raises(ConfigError, match="invalid account; give what it asks for"):
        submit(script, here)
