"""Searches: the study, its trials and points, and going on after an interruption."""

import importlib.util

import pytest

from ditask_jax.errors import ConfigError
from ditask_jax.sweeps import Sweep, grid
from ditask_jax.sweeps.loading import make_jobs
from ditask_jax.sweeps.running import FINISHED, STOPPED, Outcome, Runner, Share, state_of
from ditask_jax.sweeps.searching import STUDY_NAME, Search, make_space
from tests.sweeps.fakes import fake_command

INSTALLED = importlib.util.find_spec("optuna") is not None
needs_optuna = pytest.mark.skipif(not INSTALLED, reason="needs the package optuna: pip install optuna")
AXES = {"optimizer.learning_rate": [0.1, 0.2, 0.3], "seed": [0, 1]}


def _sweep(**options):
    return Sweep(grid("configs/smoke.py", AXES), **options)


@pytest.fixture
def start(tmp_path):
    """Starts searches in the test's folder; the one before is let go of, as if its process had ended."""
    started = []

    def make(trials, sweep=None):
        sweep = sweep or _sweep()
        for before in started:
            before.close()
        started.append(Search(sweep, make_space(make_jobs(sweep, tmp_path)), tmp_path, trials))
        return started[-1]

    yield make
    for search in started:
        search.close()


def _run(search, actions=None, at_once=1):
    found = []
    for outcome in Runner([Share()] * at_once, command=fake_command(actions)).run(search.jobs()):
        search.add(outcome)
        found.append(outcome)
    return found


@pytest.mark.skipif(INSTALLED, reason="optuna is installed")
def test_without_optuna_it_says_what_to_install(start):
    with pytest.raises(ConfigError, match="optuna is not installed; run 'pip install optuna'"):
        start(3)


def test_no_trials_are_no_search(start):
    with pytest.raises(ConfigError, match="--optuna: got 0, expected at least 1"):
        start(0)


@needs_optuna
def test_trials_train_their_points_once_each(start):
    search = start(12)
    ran = _run(search, at_once=2)
    names = [outcome.job.name for outcome in ran]
    assert len(names) == len(set(names)) <= 6
    trials = search.study.get_trials()
    assert len(trials) == 12
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert {trial.user_attrs["point"] for trial in trials} == set(names)
    assert [trial.value for trial in trials] == [1.25] * 12
    assert search.summary().startswith("search: 12 trials, best delta_m 1.25 at learning_rate")


@needs_optuna
def test_the_study_goes_on_where_it_was(start, tmp_path):
    first = start(2)
    _run(first)
    assert (tmp_path / STUDY_NAME).is_file()
    second = start(5)
    _run(second)
    assert len(second.study.get_trials()) == 5
    assert _run(start(5)) == []


@needs_optuna
def test_a_trial_that_was_stopped_comes_first_the_next_time(start):
    first = start(3)
    job = next(first.jobs())
    first.add(Outcome(job, STOPPED))
    second = start(1)
    (outcome,) = _run(second)
    assert outcome.job.name == job.name
    assert state_of(job) == FINISHED


@needs_optuna
def test_failures_count_and_are_told(start):
    actions = {point.name: "fail" for point in _sweep().points}
    search = start(4)
    assert [outcome.state for outcome in _run(search, actions)] == ["failed"] * 4
    assert {trial.state.name for trial in search.study.get_trials()} == {"FAIL"}
    assert search.summary() == "search: no trial is complete"


@needs_optuna
def test_a_metric_that_is_not_there(start):
    with pytest.raises(ConfigError, match="have no semseg/mIou; give Sweep"):
        _run(start(1, _sweep(metric="semseg/mIou")))


@needs_optuna
def test_one_folder_one_search(start, tmp_path):
    start(1)
    jobs = make_jobs(_sweep(), tmp_path)
    with pytest.raises(ConfigError, match="another process searches"):
        Search(_sweep(), make_space(jobs), tmp_path, 1)
    with pytest.raises(ConfigError, match="is the study of another sweep"):
        start(1, _sweep(metric="semseg/mIoU"))
