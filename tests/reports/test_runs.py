"""Reading run folders."""

import json

import pytest

from ditask_jax.errors import CheckpointError, DitaskError
from ditask_jax.reports import find_runs, read_run
from tests.reports.folders import write_run


def test_a_run_tells_what_it_was(tmp_path):
    run = read_run(write_run(tmp_path / "a", 2.0, ("seed=7", "tasks=semseg+depth"), backbone=11, total=22))
    assert (run.method, run.dataset, run.seed, run.task_names) == ("ditask", "scenes", 7, ("semseg", "depth"))
    assert (run.trainable_backbone, run.trainable_total, run.step) == (11, 22, 450)
    assert run.primary(run.tasks[0]) == pytest.approx(1.02 * 0.23930486697211964)
    assert run.scores["depth"]["another"] == 0.25
    assert run.fields["method.shared_cells"] == 64
    assert run.series("train/loss") == ([1, 2, 3, 4], [pytest.approx(1 / t) for t in (30.0, 0.5, 0.7, 0.6)])


def test_the_step_that_compiles_does_not_count(tmp_path):
    run = read_run(write_run(tmp_path / "a", seconds=(40.0, 0.5, 9.0, 0.7), memory=123_456))
    assert run.seconds_per_step == 0.7
    assert run.seconds_reading == pytest.approx(0.2)
    assert (run.peak_memory, run.memory_kind) == (123_456, "process")


def test_a_log_without_times_or_no_log(tmp_path):
    folder = write_run(tmp_path / "a", seconds=(40.0,))
    assert read_run(folder).seconds_per_step is None
    (folder / "metrics.jsonl").unlink()
    run = read_run(folder)
    assert (run.rows, run.peak_memory, run.memory_kind, run.seconds_reading) == ((), None, None, None)


def test_memory_of_the_device_goes_before_that_of_the_process(tmp_path):
    folder = write_run(tmp_path / "a")
    rows = [json.dumps({"step": k, "time/device_memory": 10 * k, "time/process_memory": 5}) for k in (1, 2)]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    assert (read_run(folder).peak_memory, read_run(folder).memory_kind) == (20, "device")


def test_a_run_older_than_a_field_has_its_default(tmp_path):
    folder = write_run(tmp_path / "a")
    content = json.loads((folder / "config.json").read_text())
    del content["method"]["task_blocks"], content["eval_resolution"]
    (folder / "config.json").write_text(json.dumps(content))
    run = read_run(folder)
    assert run.config.method.task_blocks == 1
    assert run.fields == read_run(write_run(tmp_path / "b")).fields


def test_a_score_that_is_no_number_is_none(tmp_path):
    folder = write_run(tmp_path / "a", overrides=("tasks=depth",))
    content = json.loads((folder / "evaluation.json").read_text())
    content["scores"]["depth"]["rmse"] = float("nan")
    (folder / "evaluation.json").write_text(json.dumps(content))
    run = read_run(folder)
    assert run.primary(run.tasks[0]) is None


def test_a_folder_of_runs_stands_for_them(tmp_path):
    for name in ("rank16", "rank8", "frozen"):
        write_run(tmp_path / "all" / name)
    write_run(tmp_path / "alone")
    (tmp_path / "all" / "notes").mkdir()
    found = find_runs([tmp_path / "alone", tmp_path / "all"])
    assert [run.path.name for run in found] == ["alone", "frozen", "rank8", "rank16"]
    with pytest.raises(CheckpointError, match=r"run: .*rank8' is named twice"):
        find_runs([tmp_path / "all" / "rank8", tmp_path / "all"])


def _damage(folder, what):
    evaluation = json.loads((folder / "evaluation.json").read_text())
    if what == "config":
        (folder / "config.json").write_text("{")
    elif what == "no evaluation":
        (folder / "evaluation.json").unlink()
    elif what == "no run":
        (folder / "config.json").unlink()
    elif what == "half":
        (folder / "evaluation.json").write_text("{")
    elif what == "metrics":
        (folder / "metrics.jsonl").write_text("nonsense\n{}\n")
    else:
        del evaluation[what]
        (folder / "evaluation.json").write_text(json.dumps(evaluation))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("config", "not valid JSON"),
        ("no evaluation", "has no evaluation.json; finish it, or run python -m ditask_jax.evaluate"),
        ("no run", "holds no run"),
        ("half", "is not valid JSON"),
        ("metrics", "not a row of metrics"),
        ("step", "has no number of steps"),
        ("scores", "has no scores by task"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(what, message, tmp_path):
    folder = write_run(tmp_path / "a")
    _damage(folder, what)
    with pytest.raises(DitaskError, match=message) as caught:
        read_run(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_without_an_evaluation_can_be_read_where_that_is_asked(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "evaluation.json").unlink()
    run = read_run(folder, evaluated=False)
    assert (run.evaluation, run.scores, run.step, run.trainable_total) == (None, {}, None, None)


def test_no_such_folder(tmp_path):
    with pytest.raises(CheckpointError, match="is no folder; give the --workdir of a training run"):
        read_run(tmp_path / "nowhere")
