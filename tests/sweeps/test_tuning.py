"""Tuning: what is tried for how long, what goes on, what is written, and going on where it was."""

import math
import sys

import pytest

from ditask_jax import cli, tune
from ditask_jax.config import load_config
from ditask_jax.errors import ConfigError
from ditask_jax.sweeps.running import Outcome, Runner, Share
from ditask_jax.sweeps.tuning import Tuning, curves, grid_of, rank, search, table, write
from ditask_jax.tasks import create_tasks

SMOKE = "configs/smoke.py"
TASKS = create_tasks("semseg+depth", dataset="scenes")
_PROGRAM = """
import json, pathlib, sys
folder, steps, factor, config = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
(folder / "config.json").write_text(config)
if factor > 50:
    sys.exit("loss: not finite")
distance = abs(factor - 10) / 100
scores = {"semseg": {"mIoU": 0.5 - distance}, "depth": {"rmse": 1.0 + distance}}
(folder / "evaluation.json").write_text(json.dumps({"step": steps, "scores": scores}))
"""


def _tuning(folder, grid=None, overrides=()):
    config = load_config(SMOKE, overrides)
    return Tuning(config, SMOKE, tuple(overrides), folder, grid or {"adapters": (1.0, 3.0, 10.0, 100.0)}, 27)


def _command(job):
    from ditask_jax.config import to_json

    factor = job.config.optimizer.rates["adapters"]
    arguments = [str(job.workdir), str(job.config.total_steps), str(factor), to_json(job.config)]
    return [sys.executable, "-S", "-c", _PROGRAM, *arguments]


def test_rungs_and_what_goes_on(tmp_path):
    grid = {"adapters": (0.3, 1.0, 3.0, 10.0, 30.0, 100.0), "decoders": (0.3, 1.0, 3.0)}
    tuning = _tuning(tmp_path, grid)
    candidates = tuning.candidates()
    assert len(candidates) == 18
    assert tuning.rungs() == [3, 9, 27]
    assert tuning.present == {"adapters": 1.0, "decoders": 1.0}
    assert tuning.present in candidates[:6]
    kept = tuning.kept(candidates)
    assert kept == candidates[:6]
    assert tuning.present not in kept[:2]
    assert tuning.kept(kept) == [*kept[:2], tuning.present]
    assert _tuning(tmp_path, {"adapters": (5.0,)}).candidates() == [{"adapters": 5.0}, {"adapters": 1.0}]
    assert _tuning(tmp_path, {"adapters": (1.0,)}).rungs() == [27]


def test_trainings_are_short_and_scored_on_a_part_of_training(tmp_path):
    tuning = _tuning(tmp_path, overrides=["optimizer.warmup_steps=9", "eval_every_steps=2", "method.dropout=0.1"])
    jobs = tuning.jobs(tuning.candidates(), 27)
    assert len({job.name for job in jobs}) == 4
    for job in jobs:
        assert job.config.data.held_aside == 0.2
        assert (job.config.total_steps, job.config.optimizer.warmup_steps, job.config.eval_every_steps) == (27, 2, None)
        assert job.config.method.dropout == 0.1
    assert [dict(job.config.optimizer.rates)["adapters"] for job in jobs] == [1.0, 3.0, 10.0, 100.0]
    split = _tuning(tmp_path, overrides=["optimizer.rates={'adapters:*/x': 2.0}"])
    assert "'adapters:*/x': 2.0, 'adapters': 3.0" in split.override({"adapters": 3.0})


def test_ranking_is_by_the_mean_over_tasks_and_failures_are_last():
    candidates = [{"adapters": float(k)} for k in range(4)]
    scores = [{"semseg": 0.4, "depth": 1.0}, {}, {"semseg": 0.5, "depth": 1.0}, {"semseg": 0.5, "depth": 2.0}]
    ranked = rank(candidates, scores, TASKS)
    assert [trial.factors["adapters"] for trial in ranked] == [2, 0, 3, 1]
    assert [trial.behind for trial in ranked] == pytest.approx([0.0, -10.0, -50.0, -math.inf])
    # A task in which nobody scores tells nothing.
    zero = rank(candidates[:2], [{"semseg": 0.0, "depth": 2.0}, {"semseg": 0.0, "depth": 1.0}], TASKS)
    assert [trial.behind for trial in zero] == pytest.approx([0.0, -100.0])


def test_a_search_finds_the_best_writes_it_and_goes_on(tmp_path):
    tuning = _tuning(tmp_path / "tune")
    events = list(search(tuning, Runner([Share(), Share()], command=_command)))
    rungs = [event for event in events if not isinstance(event, Outcome)]
    assert [steps for steps, _ in rungs] == tuning.rungs() == [9, 27]
    assert [trial.factors["adapters"] for trial in rungs[0][1]] == [10.0, 3.0, 1.0, 100.0]
    assert [trial.factors["adapters"] for trial in rungs[-1][1]] == [10.0, 1.0]
    again = list(search(tuning, Runner([Share()], command=_command)))
    # What failed is tried again, what finished is not.
    trained = [event.job.config.optimizer.rates["adapters"] for event in again if isinstance(event, Outcome)]
    assert trained == [100.0]
    files = write(tuning, rungs, tmp_path / "results")
    assert {file.name for file in files} == {"tuning.md", "overrides.txt", "adapters.png", "adapters.svg"}
    text = (tmp_path / "results" / "overrides.txt").read_text()
    assert text.startswith("--config.optimizer.rates=\"{'adapters': 10.0")
    assert "failed" in table(rungs, TASKS)
    first, last = curves(rungs, "adapters", TASKS)
    assert [factor for factor, _ in first.points] == [1.0, 3.0, 10.0]
    assert [factor for factor, _ in last.points] == [1.0, 10.0]


def test_a_search_that_is_stopped_or_fails_ends_early(tmp_path):
    tuning = _tuning(tmp_path, {"adapters": (100.0,)}, ["optimizer.rates={'adapters': 90.0}"])
    events = list(search(tuning, Runner([Share()], command=_command)))
    assert not events[-1][1][0].scores
    runner = Runner([Share()], command=_command)
    runner.stopping = True
    assert list(search(_tuning(tmp_path / "b"), runner)) == []


def test_factors_that_are_asked_for():
    config = load_config(SMOKE, ["method.name=lora", "method.unfrozen="])
    assert list(grid_of(config)) == ["adapters", "decoders"]
    assert grid_of(config, ["adapters=1,1e1"])["adapters"] == (1.0, 10.0)
    assert list(grid_of(load_config(SMOKE, ["method.name=full"]))) == ["pretrained", "decoders"]
    for text, message in (
        ("pretrained=1", "unknown name 'pretrained'. Known: adapters decoders"),
        ("adapters=0", "expected a group and factors above 0"),
        ("adapters", "expected a group and factors above 0"),
        ("adapters=1,x", "expected a group and factors above 0"),
        ("adapters=1.2.3", "expected a group and factors above 0"),
        ("adapters=.", "expected a group and factors above 0"),
        ("adapters=1e999", "expected a group and factors above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            grid_of(config, [text])


@pytest.mark.parametrize("option", ["--steps=1", "--aside=1.5", "--factors=adapter=1"])
def test_mistakes_on_the_command_line_are_one_line(option, tmp_path, capsys):
    assert cli.execute(tune.main, [f"--config={SMOKE}", f"--workdir={tmp_path / 'x'}", option]) == cli.USER_ERROR
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_list_trains_nothing(tmp_path, capsys):
    folder = tmp_path / "x"
    command = [f"--config={SMOKE}", f"--workdir={folder}", "--list", "--factors=pretrained=1", "--factors=decoders=1"]
    assert cli.execute(tune.main, command) == cli.OK
    assert "steps50_adapters30_pretrained1_decoders1" in capsys.readouterr().out
    assert not folder.exists()
