"""Panels and comparisons: colours are those of the palette, cells are in line, no text lies on another."""

import numpy as np
import pytest

from ditask_jax.data import open_source, transform
from ditask_jax.plots import example_images
from ditask_jax.plots.panels import Cell, draw_panel, picture_grid
from ditask_jax.plots.sheet import Entry, key_rows, numbers_of, to_bytes
from ditask_jax.plots.side_by_side import Example, draw_example, draw_task
from ditask_jax.tasks import create_tasks
from tests.plots.layout import check_grid, check_text, inner_texts_stay_inside, pixels_of

NAMES = ("semseg", "human_parts", "sal", "normals", "depth", "edge")
TASKS = create_tasks(NAMES, dataset="scenes")
SIZE = (48, 64)


@pytest.fixture(scope="module")
def scenes():
    """Two images with labels by task, missing values marked."""
    source = open_source("scenes", "val", NAMES, image_size=SIZE, num_examples=4)
    done = [transform(source[k], [task.label_spec for task in TASKS], SIZE) for k in (1, 3)]
    return [(entry["image"], entry["labels"]) for entry in done]


def colours_in(pixels):
    return {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_a_panel_with_any_number_of_tasks(count, scenes):
    image, labels = scenes[0]
    figure = draw_panel(image, labels, TASKS[:count], title="street with a rather long name " * 3)
    check_text(figure)
    inner_texts_stay_inside(figure)
    columns = count + 1 if count <= 4 else (count + 2) // 2
    check_grid(figure, 1, columns)
    assert len(figure.axes) == count + 1


def test_colours_of_a_panel_are_those_of_the_palette():
    [task] = create_tasks("semseg", dataset="scenes")
    classes = np.zeros((40, 40), np.uint8)
    classes[:20, 20:], classes[20:, :20], classes[20:, 20:] = 3, 7, 255
    image = np.full((40, 40, 3), (10, 200, 90), np.uint8)
    figure = draw_panel(image, {"semseg": classes}, [task])
    photo, drawn = (pixels_of(figure, axes) for axes in figure.axes)
    assert colours_in(photo) == {(10, 200, 90)}
    rows, columns = drawn.shape[:2]
    for down, across, value in [(0.1, 0.1, 0), (0.1, 0.9, 3), (0.9, 0.1, 7), (0.9, 0.9, 255)]:
        found = drawn[int(down * rows), int(across * columns)]
        assert tuple(found) == tuple(task.palette[value]), value
    # Every class in its own quarter: the image is not turned or mirrored, and nothing bleeds over.
    quarter = drawn[: rows // 2 - 1, : columns // 2 - 1]
    assert (quarter == 0).all(-1).mean() > 0.9
    # The quarters of classes carry their numbers, that without a label does not.
    assert sorted(text.get_text() for text in figure.axes[1].texts) == ["0", "3", "7"]


def test_the_key_says_what_is_there(scenes):
    image, labels = scenes[0]
    [semseg, depth] = create_tasks("semseg+depth", dataset="scenes")
    figure = draw_panel(image, labels, [semseg, depth])
    written = [text.get_text() for text in figure.texts]
    for value in np.unique(labels["semseg"]):
        assert (f"{value} {semseg.class_names[value]}" if value != 255 else "no label") in written
    absent = set(range(semseg.num_outputs)) - set(np.unique(labels["semseg"]).tolist())
    assert not any(f"{value} {semseg.class_names[value]}" in written for value in absent)
    low, high = depth.value_range(labels["depth"])
    assert f"{low:.3g} to {high:.3g} m" in written


def test_depth_can_be_read_in_grey():
    [depth] = create_tasks("depth", dataset="scenes")
    ramp = np.tile(np.linspace(1, 9, 64, dtype=np.float32), (32, 1))
    figure = draw_panel(np.zeros((32, 64, 3), np.uint8), {"depth": ramp}, [depth])
    drawn = pixels_of(figure, figure.axes[1])
    grey = drawn[drawn.shape[0] // 2] @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(grey) >= -1.5).all()
    assert grey[-1] - grey[0] > 120


@pytest.fixture(scope="module")
def examples(scenes):
    """Three runs: a perfect one, one that predicts the first class, and one without the last task."""
    found = []
    for number, (image, labels) in enumerate(scenes):
        flat = {name: np.zeros_like(value) for name, value in labels.items()}
        flat["normals"][..., 2] = 1
        flat["depth"] += 2
        partial = {name: value for name, value in labels.items() if name != "edge"}
        runs = {"perfect": labels, "a run with a long name that needs two lines": flat, "partial": partial}
        found.append(Example(str(number), image, labels, runs))
    return found


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_runs_side_by_side(task, examples):
    runs = list(examples[0].predictions)
    figure = draw_task(task, examples, runs, f"{task.name} on scenes")
    check_text(figure)
    inner_texts_stay_inside(figure)
    check_grid(figure, len(examples), len(runs) + 2)
    for row, example in enumerate(examples):
        cells = figure.axes[row * (len(runs) + 2) :][: len(runs) + 2]
        shown = [cell.images[0].get_array() for cell in cells]
        assert np.array_equal(shown[0], example.image)
        # Predictions and label on one scale: a perfect run looks exactly like the truth.
        expected = task.render(example.labels[task.name], task.value_range(example.labels[task.name]))
        assert np.array_equal(shown[-1], expected)
        assert np.array_equal(shown[1], expected)
        if task.name == "edge":
            assert [text.get_text() for text in cells[3].texts] == ["not predicted"]


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_all_tasks_of_one_picture(count, examples):
    runs = ["perfect", "partial"]
    figure = draw_example(TASKS[:count], examples[1], runs, "scenes, validation example 1")
    check_text(figure)
    check_grid(figure, 3, count + 1)
    sides = [text.get_text() for text in figure.texts if text.get_rotation() == 90]
    assert sides == ["perfect", "partial", "ground truth"]


def test_numbers_stand_only_where_there_is_room():
    classes = np.zeros((30, 30), np.uint8)
    classes[:, 20:] = 5
    classes[3:5, 3:5] = 9
    places = numbers_of(classes, room=4)
    assert set(places) == {0, 5}
    assert all(classes[place] == value for value, place in places.items())
    assert 22 <= places[5][1] <= 27
    assert numbers_of(np.full((30, 30), 255, np.uint8), room=4) == {}


def test_keys_break_lines_in_time():
    keys = [[Entry("semseg:"), *(Entry(f"{k} class", ((k, k, k),)) for k in range(30))], [Entry("sal:")]]
    rows = key_rows(keys, width=4.0)
    assert all(sum(entry.width for entry in row) <= 4.0 + 1e-9 for row in rows)
    assert [entry for row in rows for entry in row if entry.text] == [entry for key in keys for entry in key]


def test_many_columns_of_tall_pictures_with_notes():
    picture = np.zeros((90, 30, 3), np.uint8)
    rows = [[Cell(picture, f"column number {k}", "1.25 to 12.5 m") for k in range(12)] for _ in range(2)]
    figure = picture_grid(rows, title="a title", row_titles=["first", "second"], cell_width=1.0)
    check_text(figure)
    check_grid(figure, 2, 12)


def test_equal_figures_are_equal_files(scenes):
    image, labels = scenes[0]
    for format in ("png", "svg"):
        one, other = (to_bytes(draw_panel(image, labels, TASKS[:2], "x"), format) for _ in range(2))
        assert one == other
        assert len(one) > 1000


@pytest.mark.parametrize("size", [(1, 1), (4, 3000), (3000, 4), (900, 200)])
def test_pictures_of_any_shape_give_a_panel_of_a_page(size):
    [sal] = create_tasks("sal", dataset="scenes")
    image = np.zeros((*size, 3), np.uint8)
    figure = draw_panel(image, {"sal": np.ones(size, np.float32)}, [sal], title="a title")
    width, height = figure.get_size_inches()
    assert width < 6
    assert height < 8.5
    check_text(figure)
    # Pixels stay square wherever a cell is more than a hairline.
    for axes in figure.axes:
        box = axes.get_position()
        across, down = box.width * width, box.height * height
        if min(across, down) > 0.05:
            assert down / across == pytest.approx(size[0] / size[1], rel=1e-6)


def test_names_of_files_are_written_as_they_are():
    [sal] = create_tasks("sal", dataset="scenes")
    image, prediction = np.zeros((30, 40, 3), np.uint8), {"sal": np.ones((30, 40), np.float32)}
    for name, written in [(r"$\alpha $5 x_1^2", r"$\alpha $5 x_1^2"), ("日本 é", "?? é"), ("broken\udcff", "broken?")]:
        figure = draw_panel(image, prediction, [sal], title=name)
        assert len(to_bytes(figure)) > 1000
        assert figure.texts[0].get_text() == written


def test_targets_and_predictions_stand_side_by_side(scenes, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(example_images, "to_bytes", lambda figure: figures.append(figure) or to_bytes(figure))
    [semseg, depth] = create_tasks("semseg+depth", dataset="scenes")
    images = np.stack([image for image, _ in scenes])
    labels = {name: np.stack([found[name] for _, found in scenes]) for name in ("semseg", "depth")}
    predicted = {"semseg": np.zeros_like(labels["semseg"]), "depth": labels["depth"] + 1}
    file = example_images.draw_predictions(tmp_path / "new" / "a.png", images, labels, predicted, [semseg, depth], "a")
    assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    [figure] = figures
    check_text(figure)
    check_grid(figure, 2, 5)
    written = [text.get_text() for text in figure.texts]
    assert {"input", "semseg target", "semseg prediction", "depth target", "depth prediction"} <= set(written)
    for row, (image, label) in enumerate(scenes):
        shown = [axes.images[0].get_array() for axes in figure.axes[5 * row : 5 * row + 5]]
        scale = depth.value_range(label["depth"])
        expected = [image, semseg.render(label["semseg"]), semseg.render(predicted["semseg"][row])]
        expected += [depth.render(label["depth"], scale), depth.render(predicted["depth"][row], scale)]
        assert all(map(np.array_equal, shown, expected))
