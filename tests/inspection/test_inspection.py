"""What is read out of trained runs, and the figures drawn of it."""

import jax.numpy as jnp
import numpy as np
import pytest

import ditask_jax as dj
from ditask_jax import cli, cpab, figures
from ditask_jax.errors import ConfigError
from ditask_jax.inspection.drawing import draw_runs, run_names
from ditask_jax.inspection.examples import check_same_data, validation_examples
from ditask_jax.inspection.movement import movements
from ditask_jax.inspection.spectra import layer_spectra
from ditask_jax.inspection.sweep import DELTA_M, gain_curve, sweep_lines, swept_options
from ditask_jax.nn.linear import linears
from ditask_jax.reports import find_runs
from ditask_jax.reports.comparison import reference_scores
from ditask_jax.tasks import load_references, tasks
from tests.prediction.made_run import made_run

TASKS = tasks("semseg+depth", dataset="scenes")


@pytest.fixture(scope="module")
def model():
    made = dj.create_model("swin_test", TASKS, image_size=32, widths=(4, 4, 4, 4))
    dj.wrap(made, dj.DiTASK(shared_cells=4, task_cells=8, init="upstream", headroom=1.5))
    return made


@pytest.fixture(scope="module")
def spectra(model):
    return layer_spectra(model)


@pytest.fixture(scope="module")
def merged_model(model):
    return dj.merge(model)


def test_spectra_are_those_of_the_kernels(spectra, merged_model):
    found = {layer.path: layer for layer in spectra}
    merged = {layer.info.path: layer for layer in linears(merged_model.backbone)}
    assert set(found) <= set(merged)
    for path, layer in found.items():
        kernel = np.asarray(merged[path].kernel[...])
        streams = merged[path].merged_streams
        if layer.before.shape[0] > 1 or not streams:
            continue
        for number, stream in enumerate(streams):
            if stream in layer.after:
                values = np.linalg.svd(kernel[number], compute_uv=False)
                np.testing.assert_allclose(layer.after[stream][0], values, rtol=1e-4, atol=1e-5)
    assert any(len(layer.after) == 3 for layer in found.values())


def test_fields_and_maps_are_those_of_the_flow(model, spectra):
    adapters = {layer.info.path: layer.adapter for layer in linears(model.backbone) if layer.adapter is not None}
    layer = next(layer for layer in spectra if "depth" in layer.maps)
    theta = adapters[layer.path].theta_depth[...]
    tess = cpab.Tessellation(len(theta) + 1)
    places, moved = layer.maps["depth"]
    np.testing.assert_allclose(moved, cpab.transform(theta, jnp.asarray(places, jnp.float32), tess), atol=1e-6)
    places, velocity = layer.velocities["depth"]
    borders = np.asarray(cpab.vertex_velocities(theta, tess))
    np.testing.assert_allclose(velocity[:: (len(places) - 1) // tess.num_cells], borders, atol=1e-6)
    # A diffeomorphism of [0, 1].
    assert moved[0] == pytest.approx(0, abs=1e-6)
    assert moved[-1] == pytest.approx(1, abs=1e-6)
    assert (np.diff(moved) > 0).all()
    # The map, carried over to the spectrum, is what happened to the singular values.
    scale = 1.5 * layer.before[0, 0]
    expected = scale * np.interp(layer.before[0] / scale, *layer.maps["depth"])
    np.testing.assert_allclose(layer.after["depth"][0], expected, atol=2e-3 * scale)


def test_movement_is_that_of_the_spectrum(model, spectra, merged_model):
    moved = {entry.path: entry.moved for entry in movements(dj.detach(model), merged_model)}
    for layer in spectra:
        for stream, after in layer.after.items():
            change = np.linalg.norm(after - layer.before) / np.linalg.norm(layer.before)
            found = moved[layer.path]
            assert found.get(stream, found.get("")) == pytest.approx(change, rel=1e-3, abs=1e-5)


def test_movement_where_tasks_look_at_the_shared_stream():
    made = dj.create_model("swin_test", TASKS, image_size=32, widths=(4, 4, 4, 4))
    dj.wrap(made, dj.MTLoRA(shared_rank=2, task_rank=2))
    moved = [entry.moved for entry in movements(dj.detach(made), dj.merge(made))]
    # Every second factor starts at zero, so nothing has moved yet.
    assert max(value for entry in moved for value in entry.values()) < 1e-6
    assert any(set(entry) == {"shared", "semseg", "depth"} for entry in moved)


def test_methods_without_spectra_have_none():
    made = dj.create_model("swin_test", TASKS, image_size=32, widths=(4, 4, 4, 4))
    dj.wrap(made, dj.Frozen())
    assert layer_spectra(made) == []
    assert {value for entry in movements(made, made) for value in entry.moved.values()} == {0.0}


@pytest.fixture(scope="module")
def sweep_of_cells(tmp_path_factory):
    """Two cells, two seeds each, and a run of another method; without checkpoints."""
    folder = tmp_path_factory.mktemp("cells")
    for cells in (4, 16):
        for seed in (0, 1):
            options = [f"method.{name}={cells}" for name in ("shared_cells", "task_cells")]
            made_run(folder / f"c{cells}_s{seed}", *options, f"seed={seed}", seed=cells + seed, checkpoint=False)
    return folder


def test_options_that_change_together_are_one(sweep_of_cells):
    runs = find_runs([sweep_of_cells])
    options = swept_options(runs)
    assert options == {"method.shared_cells = method.task_cells": ("method.shared_cells", "method.task_cells")}
    references = load_references("scenes")
    [line] = sweep_lines(runs, ("method.shared_cells", "method.task_cells"), TASKS, references)
    assert [x for x, _ in line.points] == [4, 16]
    of_four = [run.primary(TASKS[0]) for run in runs if run.config.method.shared_cells == 4]
    assert line.points[0][1]["semseg"] == pytest.approx(sum(of_four) / 2)
    assert line.spreads[0]["semseg"] == pytest.approx(abs(of_four[0] - of_four[1]) / 2**0.5)
    # delta_m is taken anew: what stands in the run is that of other references.
    steps, gains = gain_curve(runs[0], references)
    scores = {task.name: runs[0].primary(task) for task in TASKS}
    assert steps == [30]
    assert gains == [pytest.approx(dj.delta_m(scores, references, {"semseg": True, "depth": False}))]
    assert gains[0] != runs[0].delta_m
    assert set(line.points[0][1]) == {"semseg", "depth", DELTA_M}


def test_figures_that_need_no_weights(sweep_of_cells, tmp_path, capsys):
    arguments = [str(sweep_of_cells), f"--out={tmp_path / 'out'}", "--kinds=curves,sweep,pareto"]
    assert cli.execute(figures.main, arguments) == cli.OK, capsys.readouterr().err
    names = ("losses", "pareto", "scores", "sweep_shared_cells")
    expected = sorted(f"{name}.{ending}" for name in names for ending in ("png", "svg"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_gains_over_references_that_are_given(sweep_of_cells, tmp_path, capsys):
    """Scores of the references themselves are no gain at all."""
    runs = find_runs([sweep_of_cells])
    for task in TASKS:
        made_run(tmp_path / "single" / task.name, f"tasks={task.name}", checkpoint=False)
    references = find_runs([tmp_path / "single"])
    expected = {run.task_names[0]: run.primary(run.tasks[0]) for run in references}
    assert reference_scores(TASKS, references) == expected
    arguments = [str(sweep_of_cells), f"--reference={tmp_path / 'single'}", "--kinds=curves,sweep,pareto"]
    assert cli.execute(figures.main, [*arguments, f"--out={tmp_path / 'a'}"]) == cli.OK, capsys.readouterr().err
    draw_runs(runs, tmp_path / "b", ["curves", "sweep", "pareto"], [], ["png"])
    for name in ("scores", "sweep_shared_cells", "pareto"):
        ours, packages = ((tmp_path / folder / f"{name}.png").read_bytes() for folder in "ab")
        assert ours != packages, name
    arguments[1] = f"--reference={tmp_path / 'single/depth'}"
    assert cli.execute(figures.main, [*arguments, f"--out={tmp_path / 'c'}"]) == cli.USER_ERROR
    assert "--reference: no run of semseg" in capsys.readouterr().err


def test_names_of_runs_are_short_and_different(tmp_path):
    for name in ("a/x", "b/x", "b/y"):
        made_run(tmp_path / name, checkpoint=False)
    runs = find_runs([tmp_path / "a", tmp_path / "b"])
    assert run_names(runs) == ["a/x", "b/x", "b/y"]
    assert run_names(runs[1:]) == ["x", "y"]


def test_panels_need_the_same_data(tmp_path):
    made_run(tmp_path / "a", checkpoint=False)
    made_run(tmp_path / "b", "data.seed=7", checkpoint=False)
    runs = find_runs([tmp_path])
    with pytest.raises(ConfigError, match=r"data\.seed is 0 in .* and 7 in"):
        check_same_data(runs)
    with pytest.raises(ConfigError, match="--examples: got 99, expected 0 to 5"):
        validation_examples(runs[0], TASKS, [99])
    [(_, image, labels)] = validation_examples(runs[0], TASKS, [2])
    assert image.shape == (32, 32, 3)
    assert {name: label.shape for name, label in labels.items()} == {"semseg": (32, 32), "depth": (32, 32)}


@pytest.mark.slow
def test_all_figures_of_two_runs(tmp_path, capsys):
    for name, options in (("ditask", ()), ("lora", ("method.name=lora", "method.shared_rank=2"))):
        made_run(tmp_path / "runs" / name, *options)
    runs = find_runs([tmp_path / "runs"])
    drawn, left_out = draw_runs(runs, tmp_path / "out", None, [0, 3], ["png"])
    names = {path.stem for path in drawn}
    assert {"losses", "scores", "pareto", "panels_semseg", "panels_depth", "panel_00000", "panel_00003"} <= names
    assert {"movement_ditask", "movement_lora", "spectra_ditask_stage00_block00"} <= names
    assert not any(name.startswith("spectra_lora") for name in names)
    assert any("spectra of lora: its method moves no singular values" in reason for reason in left_out)
    assert all(path.stat().st_size > 5000 for path in drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=x"], "RUN: missing; name at least one run folder"),
        (["nowhere", "--out=x"], "'nowhere' is no folder"),
        (["nowhere", "--out=x", "--kinds=panel"], "Did you mean 'panels'"),
        (["nowhere", "--out=x", "--formats=jpg"], "unknown name 'jpg'"),
        (["nowhere", "--out=x", "--examples=a"], "--examples: got 'a', expected whole numbers"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert cli.execute(figures.main, arguments) == cli.USER_ERROR
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
