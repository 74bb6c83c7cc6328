"""Curves, spectra, spectral shift and sweeps: they show the numbers they are given, and nothing lies on anything."""

import numpy as np
import pytest

from ditask_jax.errors import ConfigError
from ditask_jax.plots.curves import Curves, Plot, draw_curves
from ditask_jax.plots.option_sweep import Line, draw_sweep
from ditask_jax.plots.sheet import line_style, save, text_width, to_bytes, wrapped
from ditask_jax.plots.spectra import LayerSpectra, draw_spectra
from ditask_jax.plots.spectral_shift import SpectralShift, draw_spectral_shift
from tests.plots.layout import check_plots_are_clear, check_text, inner_texts_stay_inside, rendered

# What a figure has for any number of tasks, its rows or columns, is there for the least and the most.
COUNTS = [count if count in (1, 6) else pytest.param(count, marks=pytest.mark.slow) for count in range(1, 7)]
NAMES = ("semseg", "human_parts", "sal", "normals", "depth", "edge")


def run(name, keys, steps=120, seed=0):
    rng = np.random.default_rng(seed)
    at = np.arange(1, steps + 1)
    return Curves(name, {key: (at, 0.01 + 3 / at + rng.uniform(0, 0.1, steps)) for key in keys})


@pytest.mark.parametrize("count", COUNTS)
def test_losses_of_any_number_of_tasks(count):
    plots = [Plot(name, name, "loss", smooth=True, logarithmic=True) for name in ("weighted total", *NAMES[:count])]
    runs = [run("ditask", [p.key for p in plots]), run("runs/a rather long name of a folder", [p.key for p in plots])]
    figure = draw_curves(runs, plots, "Training loss")
    check_text(figure)
    check_plots_are_clear(figure)
    visible = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in visible] == [wrapped(plot.title, 2.2, 8.0, 2) for plot in plots]
    # A faint line of single values and a smooth one, for each run.
    assert all(len(axes.lines) == 4 for axes in visible)
    assert np.array_equal(visible[0].lines[0].get_ydata(), runs[0].series["weighted total"][1])


@pytest.mark.parametrize("runs", [1, 3, 8])
def test_scores_of_few_evaluations(runs):
    plots = [Plot(name, name, "mIoU (%) ↑", reference=40.0) for name in NAMES]
    curves = [run(f"run {k}", NAMES, steps=3, seed=k) for k in range(runs)]
    figure = draw_curves(curves, plots, "Validation scores", "single task, full fine-tuning")
    check_text(figure)
    check_plots_are_clear(figure)
    for axes in figure.axes[:6]:
        assert len(axes.lines) == runs + 1
        assert set(axes.lines[-1].get_ydata()) == {40.0}
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert labels == [*(f"run {k}" for k in range(runs)), "single task, full fine-tuning"]


def test_one_evaluation_per_run_stands_side_by_side():
    curves = [Curves(f"run {k}", {"a": ([450], [k + 1.0])}) for k in range(3)]
    figure = draw_curves(curves, [Plot("a", "semseg", "mIoU (%)")])
    [axes] = figure.axes
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines] == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert axes.get_xlabel() == ""
    check_text(figure)


def test_runs_without_a_series_leave_no_line():
    figure = draw_curves([run("a", ["x"]), Curves("b", {"x": ((), ())})], [Plot("x", "x", "loss")])
    assert len(figure.axes[0].lines) == 1


def test_lines_differ_without_colour():
    shapes = {(str(line_style(k)["linestyle"]), line_style(k)["marker"]) for k in range(20)}
    assert len(shapes) == 20
    first = [int(line_style(k)["color"][1:], 16) for k in range(8)]
    assert len(set(first)) == 8


def layer(path, streams, parts=1, fields=True, cells=8):
    rng = np.random.default_rng(len(path))
    before = np.sort(rng.uniform(0, 3, (parts, 24)))[:, ::-1]
    grid = np.linspace(0, 1, 65)
    wave = {name: (grid, 0.05 * (k + 1) * np.sin(np.pi * grid)) for k, name in enumerate(streams)}
    after = {name: before * (1 + 0.02 * (k + 1)) for k, name in enumerate(streams)}
    maps = {name: (grid, grid + 0.3 * velocity) for name, (_, velocity) in wave.items()}
    return LayerSpectra(path, before, after, wave if fields else {}, maps if fields else {})


@pytest.mark.parametrize("count", COUNTS)
def test_spectra_of_any_number_of_tasks(count):
    streams = ("shared", *NAMES[:count])
    path = "backbone/stages/0/blocks/1"
    layers = [layer(f"{path}/attn/qkv", ("shared",), parts=3)]
    layers += [layer(f"{path}/{name}", streams) for name in ("attn/proj", "mlp/fc1", "mlp/fc2")]
    figure = draw_spectra(layers, streams, "scenes, step 450: stage 0, block 1")
    check_text(figure)
    check_plots_are_clear(figure)
    assert len(figure.axes) == 16
    values, changes, velocity, moved = figure.axes[4:8]
    # In grey what was before, then every stream.
    assert len(values.lines) == 1 + len(streams)
    assert np.array_equal(values.lines[0].get_ydata(), layers[1].before[0])
    assert np.array_equal(values.lines[-1].get_ydata(), layers[1].after[streams[-1]][0])
    largest = layers[1].before[0, 0]
    expected = 100 * (layers[1].after["shared"][0] - layers[1].before[0]) / largest
    np.testing.assert_allclose(changes.lines[0].get_ydata(), expected)
    assert np.array_equal(velocity.lines[0].get_ydata(), layers[1].velocities["shared"][1])
    grid, image = layers[1].maps["shared"]
    assert np.array_equal(moved.lines[0].get_ydata(), image - grid)
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert labels == ["before", *streams]


def test_spectra_without_velocity_fields():
    figure = draw_spectra([layer("backbone/stages/0/blocks/0/mlp/fc1", ("shared",), fields=False)], ("shared",))
    assert len(figure.axes) == 2
    check_text(figure)


def shifts_of(count, blocks=4):
    streams = ("shared", *NAMES[:count])
    found = []
    for stage in range(2):
        for block in range(blocks // 2):
            path = f"backbone/stages/{stage}/blocks/{block}"
            found.append(SpectralShift(f"{path}/attn/qkv", {"": 0.001 * (stage + 1)}))
            found.append(SpectralShift(f"{path}/mlp/fc1", {name: 0.01 * k for k, name in enumerate(streams)}))
    return found, streams


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_spectral_shift_of_any_number_of_tasks(count):
    layers, streams = shifts_of(count)
    figure = draw_spectral_shift(layers, streams, "scenes, step 450: change of every kernel, in per cent of its norm")
    check_text(figure)
    assert inner_texts_stay_inside(figure) == len(layers) * len(streams)
    axes = figure.axes[0]
    table = np.array([text.get_text() for text in axes.texts]).reshape(len(layers), len(streams))
    assert table[0].tolist() == ["0.100", *["·"] * count]
    assert table[1].tolist() == ["0", *(str(k) for k in range(1, count + 1))]
    shown = np.ma.filled(axes.images[0].get_array().astype(float), np.nan)
    np.testing.assert_allclose(shown[1], 1.0 * np.arange(count + 1))
    # The further, the darker.
    grey = axes.images[0].cmap(np.linspace(0, 1, 32))[:, :3] @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(grey) < 0).all()


def test_spectral_shift_of_a_deep_model():
    layers, streams = shifts_of(4, blocks=40)
    figure = draw_spectral_shift(layers, streams, "deep")
    check_text(figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][:2] == [
        "stage 0, block 0, qkv",
        "stage 0, block 0, fc1",
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_sweeps_of_any_number_of_tasks(count):
    cells = (4, 8, 16, 32, 64)
    plots = [(name, name, "mIoU (%) ↑") for name in (*NAMES[:count], "delta_m")]
    lines = [
        Line(f"dropout={rate}", [(n, {key: rate + n / 10 for key, _, _ in plots}) for n in cells]) for rate in (0, 0.5)
    ]
    figure = draw_sweep(lines, plots, "shared_cells = task_cells", "Scores over cells", binary=True)
    check_text(figure)
    check_plots_are_clear(figure)
    axes = figure.axes[0]
    assert axes.lines[0].get_xdata().tolist() == list(cells)
    np.testing.assert_allclose(axes.lines[1].get_ydata(), [0.5 + n / 10 for n in cells])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8", "16", "32", "64"]


def test_bars_reach_a_standard_deviation_up_and_down():
    points = [(16, {"a": 1.0, "b": 5.0}), (32, {"a": 2.0, "b": 6.0})]
    line = Line("", points, [{"a": 0.25}, {"a": 0.5}])
    figure = draw_sweep([line], [("a", "semseg", "mIoU"), ("b", "depth", "rmse")], "cells", binary=True)
    [bars] = figure.axes[0].containers
    [ends] = bars.lines[2]
    assert [segment.tolist() for segment in ends.get_segments()] == [
        [[16, 0.75], [16, 1.25]],
        [[32, 1.5], [32, 2.5]],
    ]
    assert not figure.axes[1].containers
    check_text(figure)


def test_a_sweep_of_one_line_has_no_legend():
    lines = [Line("", [(0.1, {"a": 1.0}), (0.2, {"a": 2.0})])]
    figure = draw_sweep(lines, [("a", "semseg", "mIoU")], "dropout")
    assert figure.legends == []
    check_text(figure)


def test_text_is_measured():
    assert text_width("wide words", 8.0) > text_width("wide", 8.0) > 0.1
    assert text_width("wide", 16.0) == pytest.approx(2 * text_width("wide", 8.0), rel=0.05)
    lines = wrapped("several words that do not fit into a narrow column averylongwordwithoutspaces", 0.8, 8.0, 9)
    assert all(text_width(line, 8.0) <= 0.8 for line in lines.split("\n"))
    assert wrapped("one two three four five six", 0.5, 8.0, 2).endswith("...")


def test_files_appear_in_both_formats(tmp_path):
    figure = draw_sweep([Line("", [(1, {"a": 1.0}), (2, {"a": 2.0})])], [("a", "a", "")], "x")
    files = save(figure, tmp_path / "new" / "figure")
    assert [file.name for file in files] == ["figure.png", "figure.svg"]
    assert files[0].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert b"<svg" in files[1].read_bytes()[:2000]
    assert rendered(figure).std() > 5
    with pytest.raises(ConfigError, match="unknown name 'jpg'"):
        to_bytes(figure, "jpg")


def test_the_users_own_style_is_left_alone():
    import matplotlib

    with matplotlib.rc_context({"font.size": 31.0, "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        figure = draw_sweep([Line("", [(1, {"a": 1.0}), (2, {"a": 2.0})])], [("a", "a", "")], "x")
        assert dict(matplotlib.rcParams) == before
    assert figure.axes[0].title.get_fontsize() == 8.0
