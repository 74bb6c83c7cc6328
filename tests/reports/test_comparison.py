"""Rows over seeds, single-task rows, references, labels, and the files of `compare`."""

import csv
import io
import json
import statistics

import pytest

from ditask_jax import cli, compare
from ditask_jax.errors import CheckpointError
from ditask_jax.reports import find_runs
from ditask_jax.reports.comparison import compare as compare_runs
from ditask_jax.reports.rows import row_labels
from tests.reports.folders import write_run

TWO = "tasks=semseg+depth"
FULL = "configs/scenes.py:single"


def _seeds(folder, name, gains, overrides=(), source="configs/scenes.py", **options):
    return [
        write_run(folder / f"{name}_{seed}", gain, (TWO, *overrides, f"seed={seed}"), source, **options)
        for seed, gain in enumerate(gains)
    ]


def _table(paths, references=()):
    return compare_runs(find_runs(paths), find_runs(references))


def test_seeds_share_a_row(tmp_path):
    gains = [{"semseg": 3.0, "depth": 1.0}, {"semseg": 5.0, "depth": 2.0}, {"semseg": 1.0, "depth": -1.0}]
    found = _table(_seeds(tmp_path, "a", gains))
    (line,) = found.lines
    assert (line.label, line.row.seeds) == ("ditask", (0, 1, 2))
    # Delta_m of each seed is the mean of its gains: 2.0, 3.5 and 0.0.
    assert line.delta_m.mean == pytest.approx(11 / 6)
    assert line.delta_m.deviation == pytest.approx(statistics.stdev([2.0, 3.5, 0.0]))
    semseg = line.row.scores(found.tasks[0])["mIoU"]
    values = [found.references["semseg"] * (1 + gain / 100) for gain in (3, 5, 1)]
    assert (semseg.mean, semseg.deviation) == (
        pytest.approx(statistics.mean(values)),
        pytest.approx(statistics.stdev(values)),
    )
    assert semseg.n == 3


def test_fields_that_change_no_score_do_not_split_a_row(tmp_path):
    first = write_run(tmp_path / "a", 1.0, ("seed=0", "log_every_steps=7", "mesh.data=1"))
    second = write_run(tmp_path / "b", 1.0, ("seed=1", "checkpoint_every_steps=3", "eval_every_steps=9"))
    third = write_run(tmp_path / "c", 1.0, ("seed=1", "optimizer.learning_rate=0.3"))
    assert [line.row.seeds for line in _table([first, second, third]).lines] == [(0, 1), (1,)]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((69.66, 62.02, 65.00, 17.10), 3.221),
        ((72.20, 62.33, 65.70, 16.55), 5.336),
        ((67.90, 59.84, 65.40, 16.60), 2.542),
        ((70.09, 59.03, 64.55, 17.47), 1.478),
    ],
)
def test_published_rows(scores, expected, tmp_path):
    names = ("semseg", "human_parts", "sal", "normals")
    values = [*(score / 100 for score in scores[:3]), scores[3]]
    run = write_run(
        tmp_path / "a",
        overrides=("total_steps=10",),
        source="configs/pascal_swin_tiny.py",
        scores=dict(zip(names, values, strict=True)),
    )
    assert _table([run]).lines[0].delta_m.mean == pytest.approx(expected, abs=1e-3)


def test_single_task_runs_make_one_row(tmp_path):
    runs = _seeds(tmp_path, "both", [1.0, 1.0], ("method.name=full",), FULL, backbone=70, total=90, seconds=(9, 1, 1))
    for seed, (semseg, depth) in enumerate([(4.0, 2.0), (8.0, 4.0)]):
        for task, gain, total, seconds, memory in (("semseg", semseg, 100, 2.0, 8), ("depth", depth, 80, 3.0, 9)):
            runs.append(
                write_run(
                    tmp_path / f"{task}_{seed}",
                    gain,
                    (f"tasks={task}", f"seed={seed}"),
                    FULL,
                    backbone=70,
                    total=total,
                    seconds=(60.0, seconds, seconds),
                    memory=memory * 10**9,
                )
            )
    found = _table(runs)
    together, alone = found.lines
    assert (together.label, alone.label) == ("full", "single-task full")
    assert (alone.row.trainable_backbone, alone.row.trainable_total) == (140, 180)
    assert alone.row.seconds_per_step.mean == 5.0
    assert alone.row.peak_memory.mean == 9e9
    assert (alone.delta_m.mean, alone.delta_m.n) == (pytest.approx(4.5), 2)
    assert alone.delta_m.deviation == pytest.approx(statistics.stdev([3.0, 6.0]))
    assert "sums over the tasks" in found.markdown()


def test_a_seed_that_lacks_a_task_is_left_out_and_named(tmp_path):
    runs = [
        write_run(tmp_path / f"{task}_{seed}", 1.0, (f"tasks={task}", f"seed={seed}"), FULL)
        for task, seed in (("semseg", 0), ("depth", 0), ("depth", 1))
    ]
    found = _table(runs)
    assert found.lines[0].row.seeds == (0,)
    assert f"leaves out seeds that are not there for every task: {runs[2]}" in found.markdown()


def test_references_that_are_given(tmp_path):
    references = [
        write_run(tmp_path / f"{task}_{seed}", scores={task: score}, overrides=(f"tasks={task}", f"seed={seed}"))
        for task, seed, score in (("semseg", 0, 0.4), ("semseg", 1, 0.6), ("depth", 0, 2.0))
    ]
    run = write_run(tmp_path / "run", scores={"semseg": 0.6, "depth": 1.0}, overrides=(TWO,))
    found = _table([run], references)
    assert found.references == {"semseg": pytest.approx(0.5), "depth": 2.0}
    assert found.lines[0].delta_m.mean == pytest.approx((20 + 50) / 2)
    assert "given as references" in found.markdown()


def test_without_references_there_is_no_delta_m(tmp_path):
    options = ("data.name=folder", "data.root=x", "data.semseg_classes=3", "tasks=depth")
    run = write_run(tmp_path / "a", scores={"depth": 1.0}, overrides=options)
    found = _table([run])
    assert found.lines[0].delta_m is None
    assert "No single-task reference is known of depth" in found.markdown()
    assert cli.execute(compare.main, [str(run), f"--out={tmp_path / 'out'}"]) == cli.OK
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["comparison.csv", "comparison.md"]


def test_runs_of_declared_tasks_are_compared_where_their_labels_are_the_same(tmp_path):
    options = ("data.name=folder", "data.root=x", "tasks=heat", "task.heat.kind=regression")
    runs = [
        write_run(tmp_path / name, scores={"heat": score}, overrides=(*options, *more))
        for name, score, more in (
            ("a", 1.0, ("task.heat.loss_weight=2",)),
            ("b", 2.0, ()),
            ("c", 3.0, ("task.heat.scale=0.5",)),
        )
    ]
    assert "heat rmse ↓" in (text := _table(runs[:2]).markdown())
    assert "heat.loss_weight=2" in text
    with pytest.raises(
        CheckpointError, match=r"task\.heat\.scale None, .* 0\.5: their scores cannot be set side by side"
    ):
        _table(runs[1:])


def test_the_command_prints_and_writes(tmp_path, capsys):
    _seeds(tmp_path / "runs", "ditask", [1.0, 2.0])
    _seeds(tmp_path / "runs", "cells16", [0.0, 1.0], ("method.shared_cells=16", "method.task_cells=16"))
    _seeds(tmp_path / "runs", "frozen", [-9.0, -8.0], source="configs/scenes.py:frozen", backbone=0)
    out = tmp_path / "out"
    assert cli.execute(compare.main, [str(tmp_path / "runs"), f"--out={out}"]) == cli.OK
    printed = capsys.readouterr().out
    text = (out / "comparison.md").read_text()
    assert text in printed
    assert "| semseg mIoU ↑ (%) | depth rmse ↓ (m) | delta_m ↑ (%) |" in text
    assert "| ditask cells=16 | 2 | 24.05 ± 0.17 |" in text
    assert "| +0.50 ± 0.71 | 1,000 | 1,500 | 0.600 ± 0.000 | 2,000 ± 0 |" in text
    rows = list(csv.DictReader(io.StringIO((out / "comparison.csv").read_text())))
    assert [row["label"] for row in rows] == ["ditask cells=16", "ditask", "frozen"]
    assert float(rows[1]["delta_m"]) == pytest.approx(1.5)
    assert float(rows[1]["delta_m sd"]) == pytest.approx(2**-0.5)
    assert (rows[2]["trainable_backbone"], rows[2]["n"], rows[2]["semseg/another"]) == ("0", "2", "0.25")
    for name in ("delta_m.png", "delta_m.svg"):
        assert (out / name).stat().st_size > 5000


def _mistake(folder, kind):
    """Arguments of a command that must be refused."""
    good = write_run(folder / "good", 1.0, (TWO,))
    other = folder / "other"
    if kind == "data":
        write_run(other, 1.0, (TWO, "data.seed=5"))
    elif kind == "data set":
        write_run(other, 1.0, ("tasks=semseg+depth", "total_steps=3"), "configs/nyud_swin_tiny.py")
    elif kind == "examples":
        write_run(other, 1.0, (TWO, "seed=1"), examples=20)
    elif kind == "tasks":
        write_run(other, 1.0, ("tasks=semseg+normals",))
    elif kind == "another task":
        write_run(other, 1.0, ("tasks=normals",))
    elif kind == "alone":
        write_run(other, 1.0, ("tasks=depth",))
    elif kind == "twice":
        write_run(other, 1.0, (TWO,))
    elif kind == "step":
        write_run(other, 1.0, (TWO, "seed=1"), step=100)
    elif kind == "no evaluation":
        (write_run(other, 1.0, (TWO, "seed=1")) / "evaluation.json").unlink()
    elif kind == "reference of two tasks":
        return [str(good), f"--reference={write_run(other, 1.0, (TWO, 'seed=1'))}"]
    elif kind == "too few references":
        return [str(good), f"--reference={write_run(other, 1.0, ('tasks=depth',))}"]
    elif kind == "references apart":
        for name, options in (
            ("a", ("tasks=depth",)),
            ("b", ("tasks=depth", "batch_size=8")),
            ("c", ("tasks=semseg",)),
        ):
            write_run(other / name, 1.0, options)
        return [str(good), f"--reference={other}"]
    elif kind == "no runs":
        return ["--reference", str(good)]
    return [str(good), str(other)]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nowhere", "other' is no folder; give the --workdir of a training run"),
        ("data", "has data.seed 0, "),
        ("data set", "has data.name scenes"),
        ("examples", "was scored on 500 examples"),
        ("tasks", "good' has the tasks semseg depth, "),
        ("another task", "trains normals, which is none of the tasks of "),
        ("alone", "trains depth alone, and no run with the same options trains semseg"),
        ("twice", "are the same configuration with the same seed (0); give one of them"),
        ("step", "was scored at step 450"),
        ("no evaluation", "has no evaluation.json"),
        ("reference of two tasks", "give runs of one task each"),
        ("too few references", "--reference: no run of semseg"),
        ("references apart", "differ in more than the seed"),
        ("no runs", "command line: the following arguments are required: RUN"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(kind, message, tmp_path, capsys):
    arguments = _mistake(tmp_path, kind)
    assert cli.execute(compare.main, [*arguments, f"--out={tmp_path / 'out'}"]) == cli.USER_ERROR
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_tasks_in_another_order_are_the_same_tasks(tmp_path):
    runs = [write_run(tmp_path / names, 1.0, (f"tasks={names}", f"seed={len(names)}")) for names in ("semseg+depth",)]
    runs.append(write_run(tmp_path / "turned", 1.0, ("tasks=depth+semseg", "seed=3")))
    assert [line.row.seeds for line in _table(runs).lines] == [(12, 3)]


def test_a_run_that_is_not_finished_is_named(tmp_path):
    found = _table([write_run(tmp_path / "a", 1.0, step=100)])
    assert "at step 100 of 450" in found.markdown()


def test_labels():
    base = {"method.shared_cells": 64, "method.task_cells": 64, "method.domain": "value", "backbone.name": "swin"}
    rows = [
        base,
        base | {"method.shared_cells": 16, "method.task_cells": 16},
        base | {"method.shared_cells": 32},
        base | {"method.domain": "index"},
        base | {"backbone.name": "pvt", "head.widths": (4, 4)},
        base | {"method.shared_cells": (), "method.task_cells": 8},
    ]
    found = row_labels([("ditask", row) for row in rows], base)
    assert [label for label, _ in found] == [
        "ditask",
        "ditask cells=16",
        "ditask shared_cells=32",
        "ditask domain=index",
        "ditask backbone=pvt",
        "ditask shared_cells=none task_cells=8",
    ]
    assert found[4][1] == {"head.widths": (4, 4)}


def test_rows_that_differ_in_a_minor_field_alone_are_told_apart():
    rows = [("full", {"optimizer.learning_rate": rate, "optimizer.eps": 1e-8}) for rate in (0.1, 0.2, 0.3)]
    assert [label for label, _ in row_labels(rows)] == [f"full learning_rate={rate}" for rate in (0.1, 0.2, 0.3)]


def test_two_rows_of_which_one_is_the_default():
    rows = [("ditask", {"method.headroom": headroom}) for headroom in (1.0, 1.5)]
    assert [label for label, _ in row_labels(rows, {"method.headroom": 1.0})] == ["ditask", "ditask headroom=1.5"]


def test_where_rows_of_a_method_are_even_the_table_decides():
    swin, pvt = {"backbone.name": "swin"}, {"backbone.name": "pvt"}
    rows = [("ditask", swin), ("lora", swin), ("full", swin), ("full", pvt), ("frozen", pvt), ("frozen", swin)]
    labels = ["ditask", "lora", "full", "full backbone=pvt", "frozen backbone=pvt", "frozen"]
    assert [label for label, _ in row_labels(rows)] == labels


def test_reading_fails_before_anything_is_compared(tmp_path):
    good = write_run(tmp_path / "a")
    (good / "evaluation.json").write_text(json.dumps({"step": 1, "scores": {"semseg": {}}}))
    with pytest.raises(CheckpointError, match="has no scores of human_parts"):
        _table([good])
