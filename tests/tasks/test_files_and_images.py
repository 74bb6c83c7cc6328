"""What a task writes and draws: raw files, value ranges, colours and their keys, captions, units, whole tables."""

import dataclasses

import numpy as np
import pytest

from ditask_jax.errors import ConfigError
from ditask_jax.labels import LabelSpec
from ditask_jax.tasks import (
    DATASETS,
    Classification,
    Depth,
    EdgeDetection,
    Task,
    create_tasks,
    delta_m,
    load_references,
    task_registry,
)
from ditask_jax.tasks.class_map import class_palette
from ditask_jax.tasks.task_registry import CITYSCAPES_CATEGORIES, add_task, dataset_with, known_tasks

from .examples import ALL_TASKS

SEMSEG, PARTS, SAL, NORMALS, DEPTH, EDGE = ALL_TASKS
PALETTE = [[236, 45, 19], [35, 53, 139], [179, 251, 116], [185, 70, 157], [128, 128, 128]]  # of four classes
KINDS = Classification(num_outputs=3, class_names=("cat", "dog", "cow"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(Task):
    """A task of a user's own that defines what it must, and nothing else."""

    name: str = "plain"
    num_outputs: int = 2
    loss_weight: float = 1.0
    primary_metric: str = "error"
    higher_is_better: bool = False
    unit: str = "mm"
    whole: bool = False

    @property
    def label_spec(self):
        return LabelSpec(self.name, channels=2, dtype="float32", is_map=not self.whole)

    @property
    def sum_shapes(self):
        return {"error": (), "images": ()}

    def loss(self, logits, label, valid=None):
        return (logits - label).mean()

    def decode(self, logits):
        return logits

    def render(self, picture, value_range=None):
        return np.zeros((2, 2, 3), np.uint8)

    def _scores(self, total):
        return {"error": total["error"] / total["images"], "worst": np.log(total["error"]), "none": None}


# --- raw files


@pytest.mark.parametrize("format", ["npy", "png"])
def test_class_maps_are_ids_with_a_palette(format):
    form = SEMSEG.raw_form(format)
    assert form.ending == ".png"
    assert form.describes == {
        "holds": "class id per pixel, 8-bit palette",
        "classes": list(SEMSEG.class_names),
        "colours": SEMSEG.palette[:12].tolist(),
    }
    assert np.array_equal(form.palette, SEMSEG.palette)
    stored = form.encode(np.int32([[0, 11, 254]]))
    assert stored.dtype == np.uint8
    assert stored.tolist() == [[0, 11, 254]]


@pytest.mark.parametrize("task", [SAL, EDGE], ids=lambda task: task.name)
def test_probabilities_are_sixteen_bits(task):
    form = task.raw_form("npy")
    assert (form.ending, form.palette) == (".png", None)
    assert form.describes == {"holds": "16-bit: probability times 65535", "unit": "1"}
    stored = form.encode(np.float32([[-0.5, 0, 0.25, 1, 1.5]]))
    assert stored.dtype == np.uint16
    assert stored.tolist() == [[0, 0, 16384, 65535, 65535]]


def test_normals_are_floats_or_sixteen_bits():
    vectors = np.float32([[[-1, 0, 1], [0.6, -0.6, 2]]])
    plain = NORMALS.raw_form("npy")
    assert (plain.ending, plain.describes["unit"]) == (".npy", "1")
    assert plain.encode(vectors) is vectors
    form = NORMALS.raw_form("png")
    assert (form.ending, form.describes["unit"]) == (".png", "1")
    stored = form.encode(vectors)
    assert stored.dtype == np.uint16
    assert stored.tolist() == [[[0, 32768, 65535], [52428, 13107, 65535]]]
    assert "v = 2 RGB / 65535 - 1" in form.describes["holds"]


@pytest.mark.parametrize(
    ("unit", "depth", "stored", "holds"),
    [
        ("metres", [-1, 0, 1.2344, 70], [0, 0, 1234, 65535], "16-bit: depth times 1000"),
        ("pixels", [0, 0.5, 100.25, 300], [0, 129, 25665, 65535], "16-bit: depth times 256, plus 1; 0 for no depth"),
        ("inverse", [0, 0.25, 1, 2], [0, 16384, 65535, 65535], "16-bit: depth times 65535"),
    ],
)
def test_depth_in_sixteen_bits_goes_by_its_unit(unit, depth, stored, holds):
    form = Depth(unit=unit).raw_form("png")
    assert (form.ending, dict(form.describes)) == (".png", {"holds": holds, "unit": unit})
    found = form.encode(np.float32([depth]))
    assert found.dtype == np.uint16
    assert found.tolist() == [stored]


@pytest.mark.parametrize(("unit", "format"), [("metres", "npy"), ("mm", "png"), ("", "png")])
def test_depth_of_any_other_unit_stays_as_it_is(unit, format):
    form = Depth(unit=unit).raw_form(format)
    assert (form.ending, dict(form.describes)) == (".npy", {"holds": "float32 [H, W]", "unit": unit})
    value = np.float32([[1e9]])
    assert form.encode(value) is value


def test_a_class_is_number_and_name():
    form = KINDS.raw_form("png")
    assert (form.ending, form.describes["classes"]) == (".json", ["cat", "dog", "cow"])
    assert form.encode(np.int32(2)) == {"class": 2, "name": "cow"}
    assert form.encode(np.int32(3)) == {"class": 3, "name": "no label"}


def test_what_a_task_gets_without_a_word_of_its_own():
    form = Plain().raw_form("png")
    assert (form.ending, form.palette) == (".npy", None)
    assert form.describes == {"holds": "array [H, W] or [H, W, K], as the task decodes it", "unit": "mm"}
    assert form.encode(KINDS) is KINDS
    whole = Plain(whole=True, unit="").raw_form("npy")
    assert (whole.ending, dict(whole.describes)) == (".json", {"holds": "the value of the whole image"})
    assert whole.encode(np.float32([1.5, 2])) == {"value": [1.5, 2.0]}
    named = type("Named", (Plain,), {"caption": lambda self, value: "it"})(whole=True, unit="fraction").raw_form("npy")
    assert "unit" not in named.describes
    assert named.encode(np.float32(0.5)) == {"value": 0.5, "caption": "it"}
    value = np.zeros((2, 2))
    assert (Plain().colour_key([value]), Plain().colour_words(), Plain().limits, Plain().caption(value)) == (
        [],
        "",
        "",
        "",
    )
    assert (Plain().value_range(value), Plain().class_ids(value), Plain().range_note(None)) == (None, None, "")
    assert Plain().metric_sums(value, value) is None
    with pytest.raises(NotImplementedError, match="plain is scored on the device: use metric_sums"):
        Plain().host_sums(value, value)


# --- units


@pytest.mark.parametrize(
    ("task", "shown", "of_values"),
    [
        (SEMSEG, (100.0, "%"), ""),
        (NORMALS, (1.0, "deg"), ""),
        (DEPTH, (1.0, "m"), "m"),
        (Depth(unit="pixels"), (1.0, "px"), "px"),
        (Depth(unit="inverse"), (1.0, "1/m"), "1/m"),
        (Plain(), (1.0, "mm"), "mm"),
    ],
)
def test_units_of_scores_and_values(task, shown, of_values):
    assert (task.shown_unit, task.value_unit) == (shown, of_values)
    assert task.score_text(0.125) == f"{0.125 * shown[0]:.2f} {shown[1]}"
    assert task.range_note((0.0, 1 / 3)) == f"0 to 0.333 {of_values}".strip()


def test_values_of_depth_span_the_labelled_pixels():
    label = np.arange(101, dtype=np.float32).reshape(1, -1) + 1
    with_missing = np.concatenate([label, np.float32([[0, 255, 0]])], axis=1)
    assert DEPTH.value_range(with_missing) == pytest.approx((3.0, 99.0))
    assert DEPTH.value_range(np.zeros((2, 2))) is None
    # Without a range the image's own; on a given one, what lies beyond is drawn as the ends are.
    assert np.array_equal(DEPTH.render(label), DEPTH.render(label, (3.0, 99.0)))
    ends = DEPTH.render(np.float32([[1, 2, 50, 90]]), (2.0, 50.0))[0].tolist()
    assert ends[0] == ends[1] == [68, 1, 84]
    assert ends[2] == ends[3] == [253, 231, 37]
    assert DEPTH.render(np.float32([[4, 4, 0]]))[0].tolist() == [[68, 1, 84], [68, 1, 84], [0, 0, 0]]


# --- colours


def test_colours_of_classes_stay():
    """They are written into files and shown on pages: images of one class look alike from version to version."""
    assert class_palette(4, False)[:5].tolist() == PALETTE
    assert class_palette(4)[0].tolist() == [0, 0, 0]
    assert class_palette(300)[[0, 254, 255]].tolist()[::2] == [[0, 0, 0], [255, 255, 255]]
    assert class_palette(300)[254].tolist() != [128, 128, 128]
    assert not class_palette(4).flags.writeable
    # Only a background is black.
    (walls,) = create_tasks("semseg", dataset="nyud")
    assert walls.palette[0].tolist() == PALETTE[0]
    assert SEMSEG.palette[0].tolist() == [0, 0, 0]


def test_keys_of_class_maps():
    every = SEMSEG.colour_key()
    assert [entry.text for entry in every] == [f"{k} {name}" for k, name in enumerate(SEMSEG.class_names)]
    shown = SEMSEG.colour_key([np.uint8([[255, 3]]), np.uint8([[11, 12, 3]])])
    assert [(entry.text, entry.colours) for entry in shown] == [
        ("3 box", (tuple(SEMSEG.palette[3].tolist()),)),
        ("11 pole", (tuple(SEMSEG.palette[11].tolist()),)),
        ("12", ((128, 128, 128),)),
        ("no label", ((255, 255, 255),)),
    ]
    assert SEMSEG.colour_key([]) == []
    assert SEMSEG.colour_words() == "white: no label"
    assert SEMSEG.class_ids([[1, 2]]).tolist() == [[1, 2]]
    assert PARTS.class_ids(np.uint8([[7]])).tolist() == [[7]]


def test_keys_of_binary_maps():
    grey = [tuple([level] * 3) for level in range(0, 256, 17)]
    (bar,) = SAL.colour_key()
    assert (bar.text, list(bar.colours)) == ("probability 0 to 1", grey)
    texts = lambda *values: [entry.text for entry in SAL.colour_key([np.asarray(value) for value in values])]
    assert texts(np.uint8([[0, 1]])) == ["no", "yes"]
    assert texts(np.uint8([[0]]), np.uint8([[255]])) == ["no", "no label"]
    assert texts(np.uint8([[1, 255]]), np.float32([[0.5]])) == ["probability 0 to 1", "no label"]
    no, yes, unknown = SAL.colour_key([np.uint8([[255, 0, 1]])])
    drawn = SAL.render(np.uint8([[0, 1, 255]]))[0].tolist()
    assert [list(entry.colours[0]) for entry in (no, yes, unknown)] == drawn
    assert SAL.colour_words() == EDGE.colour_words() == "black to white: probability 0 to 1; red: no label"


def test_keys_of_normals_are_what_is_drawn():
    for axis, entry in enumerate(NORMALS.colour_key([np.zeros((1, 1, 3))])):
        ends = np.zeros((1, 2, 3), np.float32)
        ends[0, :, axis] = -1, 1
        assert NORMALS.render(ends)[0].tolist() == [list(colour) for colour in entry.colours]
        assert entry.text.startswith("xyz"[axis])
    assert len(NORMALS.colour_key()) == 3
    assert NORMALS.colour_words() == "red: x, green: y, blue: z of the unit normal; black: no label"


def test_keys_of_depth_are_what_is_drawn():
    (bar,) = DEPTH.colour_key([np.ones((1, 1))])
    assert np.array_equal(DEPTH.render(np.arange(16.0)[None] + 1, (1.0, 16.0))[0], bar.colours)
    assert bar.text == "from near to far, as noted; black: no label"
    assert DEPTH.colour_words() == "from near (dark) to far (bright), on the target's scale; black: no label"
    assert DEPTH.limits == "Depth is in the unit and of the cameras of the training set; it is no measurement."
    assert (SAL.limits, DEPTH.class_ids(np.ones((1, 1))), DEPTH.caption(np.ones((1, 1)))) == ("", None, "")


def test_a_class_is_a_field_of_its_colour():
    many = Classification(num_outputs=300, class_names=("x",) * 300)
    assert KINDS.render(np.int32(1)).shape == (24, 48, 3)
    assert np.unique(KINDS.render(np.int32(1)).reshape(-1, 3), axis=0).tolist() == [class_palette(3, False)[1].tolist()]
    assert np.array_equal(many.render(np.int32(256)), many.render(np.int32(1)))
    assert KINDS.colour_words() == "the class is written below the image"
    assert many.render(np.int32(300)).max() == 0


# --- scores of totals


def test_scores_that_are_no_numbers_are_unknown():
    total = lambda error, images: {"error": np.float64(error), "images": np.int64(images)}
    assert Plain().finalize(total(1.0, 4)) == {"error": 0.25, "worst": 0.0}
    assert Plain().finalize(total(0.0, 4)) == {"error": 0.0}
    assert Plain().finalize(total(1.0, 0)) == {"worst": 0.0}
    assert Plain().finalize(None) == Plain().details(None) == {}
    assert Plain().details(total(1.0, 4)) == {}
    divided = type("Divided", (Plain,), {"_scores": lambda self, total: {"error": 1 / int(total["images"])}})()
    assert divided.finalize(total(1.0, 2)) == {"error": 0.5}
    assert divided.finalize(total(1.0, 0)) == {}
    # Sums of a single batch are totals too.
    assert Plain().finalize({"error": np.float32([[1, 2], [3, 4]]), "images": np.int32([1, 1])})["error"] == 5.0


def test_details_of_classification_and_edges():
    assert KINDS.details({"correct": np.int64(3), "images": np.int64(4)}) == {"correct": 3, "images": 4}
    assert KINDS.details({"correct": np.int64(0), "images": np.int64(0)}) == {}
    counts = {name: np.zeros(shape, np.int64) for name, shape in EDGE.sum_shapes.items()}
    assert EDGE.details(counts) == {}
    counts["predicted"][7], counts["matched"][7], counts["actual"] = 8, 6, np.int64(12)
    found = EDGE.details(counts)
    assert (found["precision"], found["recall"], found["f1"][7]) == (0.75, 0.5, 0.6)
    assert found["best_threshold"] == found["thresholds"][7]
    assert EDGE.finalize(counts) == {"odsF": 0.6}


# --- tables


def test_other_packages_of_a_data_set_have_other_classes():
    (seven,) = create_tasks("semseg", dataset="cityscapes", num_classes={"semseg": 7})
    assert seven.class_names == CITYSCAPES_CATEGORIES
    (usual,) = create_tasks("semseg", dataset="cityscapes", num_classes={"semseg": 19})
    assert (usual.num_outputs, usual.class_names[0]) == (19, "road")
    with pytest.raises(ConfigError, match=r"got 8, but 'cityscapes' has 19; set it for data\.name=folder only"):
        create_tasks("semseg", dataset="cityscapes", num_classes={"semseg": 8})


@pytest.mark.parametrize("count", [True, 2.0, 2**20 + 1])
def test_numbers_of_classes_are_whole(count):
    with pytest.raises(ConfigError, match=r"create_tasks: num_classes of 'classification': got .* from 2 to 1048576"):
        create_tasks("classification", dataset="vtab", num_classes={"classification": count})


def test_missing_numbers_of_classes_are_asked_for():
    with pytest.raises(ConfigError, match=r"\(background included\), for example --config.data.semseg_classes=21"):
        create_tasks("semseg", dataset="folder")
    with pytest.raises(ConfigError, match=r"of 'classification', for example num_classes=\{'classification': 21\}"):
        create_tasks("classification", dataset="vtab")


def test_a_further_task(monkeypatch):
    monkeypatch.setattr(task_registry, "DATASETS", dict(DATASETS))
    monkeypatch.setattr(task_registry, "_OTHERS", dict(task_registry._OTHERS))
    own = EdgeDetection(name="seams")
    add_task(own, ["nyud", "scenes"])
    assert create_tasks("depth+seams", dataset="nyud")[1] is own
    assert task_registry.DATASETS["scenes"].tasks == (*DATASETS["scenes"].tasks, "seams")
    assert task_registry.DATASETS["pascal"] == DATASETS["pascal"]
    assert known_tasks()[-1] == "seams"
    assert dataset_with(["seams"]) == "nyud"
    for name in ("seams", "semseg", "depth"):
        with pytest.raises(ConfigError, match=f"task '{name}' is registered already; choose another name"):
            add_task(EdgeDetection(name=name), ["nyud"])
    with pytest.raises(ConfigError, match=r"task 'other': datasets: unknown name 'nyudv2'\. Did you mean 'nyud'"):
        add_task(EdgeDetection(name="other"), ["scenes", "nyudv2"])
    assert "other" not in task_registry.DATASETS["scenes"].tasks


def test_delta_m_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="delta_m: no scores given"):
        delta_m({}, {"sal": 0.5}, {"sal": True})
    for score in (None, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"delta_m: score of 'sal': got {score}, expected a finite number"):
            delta_m({"sal": score}, {"sal": 0.5}, {"sal": True})


def test_a_reference_may_be_perfect(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"scores": {"sal": {"metric": "mIoU", "value": 1}, "depth": {"metric": "rmse", "value": 2.5}}}')
    assert load_references("scenes", file) == {"sal": 1.0, "depth": 2.5}
