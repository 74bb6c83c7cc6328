"""The end of a sweep: tables, figures, the whole command with runs that are there already."""

import csv
import io
import itertools

import pytest
from PIL import Image

from ditask_jax import cli, sweep
from ditask_jax.sweeps import Point, Sweep, grid, seeds
from ditask_jax.sweeps.loading import make_jobs
from ditask_jax.sweeps.running import FAILED, FINISHED, NEW, Outcome, state_of
from ditask_jax.sweeps.sweep_results import (
    Tally,
    draw_effects,
    effects_of,
    points_csv,
    rank,
    ranking_text,
    write_results,
)
from tests.reports.folders import write_run

SCENES = "configs/scenes.py"
RATES = {"optimizer.learning_rate": [0.2, 0.02], "seed": [0, 1]}


def _finished(folder, points, gains):
    """Jobs of the points, the first of which have gained so much."""
    jobs = make_jobs(Sweep(points, SCENES, {"tasks": "semseg+depth"}), folder)
    for job, gain in zip(jobs, gains, strict=False):
        write_run(job.workdir, gain, job.overrides, job.source)
    return jobs, {job.name: state_of(job) for job in jobs}


def test_tables_and_figures_of_what_is_finished(tmp_path):
    sweep = Sweep(grid(SCENES, RATES), metric="semseg/mIoU")
    jobs, states = _finished(tmp_path, sweep.points, [1.0, 3.0, -2.0])
    assert list(states.values()) == [FINISHED, FINISHED, FINISHED, NEW]
    text, files = write_results(sweep, jobs, states, tmp_path / "results")
    lines = text.splitlines()
    assert lines[0] == "semseg/mIoU by point, the best first:"
    assert [line.split()[0] for line in lines[1:4]] == [jobs[k].name for k in (1, 0, 2)]
    # The table of methods: two seeds of the first rate in one row, the mean of their gains.
    (row,) = [line for line in lines if line.startswith("| ditask learning_rate=0.2 ")]
    assert "+2.00 ± 1.41" in row
    names = {file.name for file in files}
    assert names == {
        *("points.csv", "comparison.md", "comparison.csv"),
        *("delta_m.png", "delta_m.svg", "axes.png", "axes.svg"),
    }
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results" / "points.csv").read_text())))
    assert [row["state"] for row in rows] == ["finished"] * 3 + ["new"]
    assert [row["optimizer.learning_rate"] for row in rows] == ["0.2", "0.2", "0.02", "0.02"]
    assert float(rows[1]["semseg/mIoU"]) == pytest.approx(float(rows[0]["semseg/mIoU"]) * 1.03 / 1.01)
    assert rows[3]["semseg/mIoU"] == ""


def test_points_that_cannot_be_compared_still_have_their_table(tmp_path):
    points = [Point("a", SCENES), Point("b", SCENES, {"data.seed": 5})]
    jobs, states = _finished(tmp_path, points, [1.0, 2.0])
    text, files = write_results(Sweep(points, metric="semseg/mIoU"), jobs, states, tmp_path / "results")
    assert text.splitlines()[1].split()[0] == "b"
    assert "no table of methods: compare: " in text
    assert [file.name for file in files] == ["points.csv"]


def test_nothing_is_finished(tmp_path):
    points = [Point("a", SCENES)]
    jobs, states = _finished(tmp_path, points, [])
    text, files = write_results(Sweep(points), jobs, states, tmp_path / "results")
    assert text == "no point is finished"
    assert points_csv(jobs, states).splitlines()[1].startswith("a,new,configs/scenes.py,")
    assert len(files) == 1


def test_the_best_is_the_smallest_where_less_is_better(tmp_path):
    points = grid(SCENES, {"seed": range(3)})
    jobs, _ = _finished(tmp_path, points, [1.0, 3.0, 2.0])
    assert [job.name for job, _ in rank(Sweep(points, metric="depth/rmse", goal="min"), jobs)] == [
        "seed1",
        "seed2",
        "seed0",
    ]
    assert ranking_text(Sweep(points, metric="depth/rmsee"), []) == "no finished point has depth/rmsee"


def test_effects_are_means_along_an_axis(tmp_path):
    points = seeds([Point("a", f"{SCENES}:ditask"), Point("b", f"{SCENES}:full")], [1, 0])
    jobs, _ = _finished(tmp_path, points, [1.0, 2.0, 3.0, 4.0])
    config, seed = effects_of(jobs, "semseg/mIoU")
    assert (config.axis, list(config.scores)) == ("config", ["ditask", "full"])
    assert (seed.axis, list(seed.scores)) == ("seed", ["0", "1"])
    assert [len(scores) for scores in seed.scores.values()] == [2, 2]
    assert seed.scores["0"][0] == pytest.approx(config.scores["ditask"][1])
    assert effects_of(jobs[:1], "semseg/mIoU") == []


def test_the_figure_has_a_plot_per_axis_with_its_text_inside(tmp_path):
    axes = {
        ("method.shared_cells", "method.task_cells"): [16, 32, 64],
        "optimizer.learning_rate": [0.2, 0.02],
        "start": {"a rather long name of a value": {}, "another": {"batch_size": 8}, "third": {"batch_size": 4}},
        "method.dropout": [0.0, 0.1],
    }
    points = grid(SCENES, axes)
    jobs, _ = _finished(
        tmp_path,
        [Point(f"p{k}", p.config, p.overrides, p.axes) for k, p in enumerate(points)],
        [k % 7 - 3 for k in range(len(points))],
    )
    figure = draw_effects(effects_of(jobs, "semseg/mIoU"), "semseg/mIoU")
    figure.savefig(tmp_path / "axes.png")
    shown = [plot for plot in figure.axes if plot.get_visible()]
    assert [plot.get_xlabel().replace("\n", "") for plot in shown] == [
        "method.shared_cells",
        "optimizer.learning_rate",
        "start",
        "method.dropout",
    ]
    assert [len(plot.lines[-1].get_xdata()) for plot in shown] == [3, 2, 3, 2]
    assert [label.get_text() for label in shown[0].get_xticklabels()] == ["16", "32", "64"]
    # The mean over the points of a value.
    first = effects_of(jobs, "semseg/mIoU")[-1].scores["0.0"]
    assert shown[3].lines[-1].get_ydata()[0] == pytest.approx(sum(first) / len(first))
    renderer = figure.canvas.get_renderer()
    width, height = figure.canvas.get_width_height()
    for plot in shown:
        names = plot.get_xticklabels()
        boxes = [label.get_window_extent(renderer) for label in names]
        for box in (*boxes, plot.xaxis.label.get_window_extent(renderer)):
            assert -1 <= box.x0 <= box.x1 <= width + 1
            assert -1 <= box.y0 <= box.y1 <= height + 1
        if names[0].get_rotation() == 0:
            assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert [plot.get_xticklabels()[0].get_rotation() for plot in shown] == [0, 0, 40, 0]
    with Image.open(tmp_path / "axes.png") as picture:
        assert picture.size == (width, height)


def test_the_time_left_is_that_of_the_waiting_points_side_by_side(tmp_path):
    jobs = make_jobs(Sweep(grid(SCENES, {"seed": range(6)})), tmp_path)
    tally = Tally(total=6, finished=1, waiting=5, at_once=2)
    assert tally.remaining_seconds() is None
    assert tally.add(Outcome(jobs[1], FINISHED, 100.0)).startswith("[2/6] seed1: finished after 1 min 40 s")
    assert tally.remaining_seconds() == pytest.approx(200)
    assert "boom" in tally.add(Outcome(jobs[2], FAILED, 1.0, "boom"))
    assert tally.remaining_seconds() == pytest.approx(150)


def test_the_command_on_finished_runs_trains_nothing_and_prints_the_tables(tmp_path, capsys):
    file = tmp_path / "sweep.py"
    file.write_text(
        "from ditask_jax.sweeps import Sweep, grid\n\n\ndef get_sweep():\n"
        f"    axes = {RATES!r}\n"
        "    return Sweep(grid('configs/scenes.py', axes), overrides={'tasks': 'semseg+depth'}, metric='semseg/mIoU')\n"
    )
    _finished(tmp_path / "runs", grid(SCENES, RATES), [1.0, 2.0, 3.0, 4.0])
    assert cli.execute(sweep.main, [str(file), f"--workdir={tmp_path / 'runs'}"]) == cli.OK
    printed = capsys.readouterr().out
    assert printed.startswith("4 points: 4 finished; ")
    assert "| ditask learning_rate=0.02 |" in printed
    assert (tmp_path / "runs" / "results" / "axes.png").is_file()
    assert cli.execute(sweep.main, [str(file), f"--workdir={tmp_path / 'runs'}", "--slurm"]) == cli.OK
    assert capsys.readouterr().out == "every point is finished\n"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "--config.method.name=ditas",
            "point 'seed0': config: method.name: unknown name 'ditas'. Did you mean 'ditask'",
        ),
        ("--config.backbone.weights=gone.safetensors", "point 'seed0': weights: no file 'gone.safetensors'"),
        ("--config.data.name=folder", "point 'seed0': config: data.root: got None"),
        ("--config.image_size=50", "point 'seed0': config: image_size: 50x50 does not fit"),
    ],
)
def test_a_configuration_that_cannot_work_is_found_before_anything_runs(tmp_path, capsys, override, message):
    file = tmp_path / "sweep.py"
    file.write_text(
        "from ditask_jax.sweeps import Sweep, grid\n\n\ndef get_sweep():\n"
        "    return Sweep(grid('configs/smoke.py', {'seed': [0, 1]}))\n"
    )
    code = cli.execute(sweep.main, [str(file), f"--workdir={tmp_path / 'runs'}", override])
    assert code == cli.USER_ERROR
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_of_another_configuration_is_found_before_anything_runs(tmp_path, capsys):
    _finished(tmp_path, [Point("learning_rate0.1_seed0")], [1.0])
    assert cli.execute(sweep.main, ["configs/sweeps/smoke.py", f"--workdir={tmp_path}"]) == cli.USER_ERROR
    assert "sweep: point 'learning_rate0.1_seed0': workdir: " in capsys.readouterr().err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        sweep.main(["--help"])
    printed = capsys.readouterr().out
    assert "python -m ditask_jax.sweep configs/sweeps/smoke.py --workdir=runs/sweep_smoke --jobs=2" in printed
    assert "--slurm" in printed
