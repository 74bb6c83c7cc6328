"""The figure: labels that can be read, and the same file from the same table."""

import itertools

import pytest

from ditask_jax.plots.sheet import save
from ditask_jax.reports import find_runs
from ditask_jax.reports.comparison import compare
from tests.reports.folders import write_run


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """Twenty rows, most of them close together, as ablations are."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, shift in ((0, 0.0), (1, 0.7)):
        for k in range(14):
            options = (f"seed={seed}", f"method.shared_cells={16 + k}")
            write_run(folder / f"ditask{k}_{seed}", -1.0 + 0.05 * k + shift, options, backbone=56_000 + 40 * k)
        for rank in (2, 4, 8, 16, 32):
            options = (f"seed={seed}", "method.name=lora", f"method.rank={rank}")
            write_run(folder / f"lora{rank}_{seed}", -0.5 + shift, options, backbone=50_000 + 9_000 * rank)
        write_run(folder / f"frozen_{seed}", -14.0 + shift, (f"seed={seed}",), "configs/scenes.py:frozen", backbone=0)
    return compare(find_runs([folder]))


@pytest.mark.parametrize("count", ["backbone", "total"])
def test_labels_overlap_neither_each_other_nor_the_frame(crowded, count):
    figure = crowded.figure(count)
    axes = figure.axes[0]
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    labels = {text.get_text(): text.get_window_extent() for text in axes.texts if text.get_text()}
    assert set(labels) == {line.label for line in crowded.lines}
    assert len(labels) == 20
    for (one, a), (other, b) in itertools.combinations(labels.items(), 2):
        assert not a.overlaps(b), f"{one} lies over {other}"
    for name, box in labels.items():
        assert frame.fully_containsx(box.x0), name
        assert frame.fully_containsx(box.x1), name
        assert frame.fully_containsy(box.y0), name
        assert frame.fully_containsy(box.y1), name


def test_what_has_no_logarithm_stands_at_zero(crowded):
    axes = crowded.figure().axes[0]
    texts = [label.get_text() for label in axes.get_xticklabels()]
    assert texts[0] == "0"
    assert axes.get_xticks()[0] < 50_000
    assert axes.get_xscale() == "log"
    assert "0" not in [label.get_text() for label in crowded.figure("total").axes[0].get_xticklabels()]


def test_equal_tables_give_equal_files(crowded, tmp_path):
    written = save(crowded.figure(), tmp_path / "a")
    again = save(crowded.figure(), tmp_path / "b")
    assert [file.name for file in written] == ["a.png", "a.svg"]
    assert [file.read_bytes() for file in written] == [file.read_bytes() for file in again]
    svg = written[1].read_text()
    for line in crowded.lines:
        assert line.label in svg
