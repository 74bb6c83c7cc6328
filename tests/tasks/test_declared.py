"""Tasks that a configuration declares: what may be said, what is refused, and the tasks that come of it."""

import copy
import dataclasses
import json
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.config import base_config, config_diff, flatten, from_json, load_config, to_json
from ditask_jax.config_tasks import TaskFields, said
from ditask_jax.errors import ConfigError
from ditask_jax.labels import IGNORE
from ditask_jax.options import options_of
from ditask_jax.reports.rows import row_labels
from ditask_jax.sweeps.loading import make_jobs
from ditask_jax.sweeps.points import Sweep, grid
from ditask_jax.tasks import DATASETS, EdgeDetection, Saliency, create_tasks, load_references, multi_task_loss
from ditask_jax.tasks.base import check_task
from ditask_jax.tasks.declared import KINDS, TaskOptions, check_declaration, declared_task, label_facts
from ditask_jax.tasks.regression import Regression
from ditask_jax.training.experiment import build_tasks

SMOKE = "configs/smoke.py"
OWN = (
    "data.name=folder",
    "data.root=photos",
    "tasks=garments+heat+edge",
    "task.garments.kind=classes",
    "task.garments.classes=background, shirt",
    "task.garments.colours=#000000,#ff0000",
    "task.heat.kind=regression",
    "task.heat.ignore=-1",
    "tasks.edge.loss_weight=5",
)
SAID = {
    "edge": {"loss_weight": 5.0},
    "garments": {"kind": "classes", "classes": ("background", "shirt"), "colours": ("#000000", "#ff0000")},
    "heat": {"kind": "regression", "ignore": -1},
}
EVERY_KIND = {
    "classes": {"classes": ("a", "b", "c")},
    "mask": {},
    "regression": {"unit": "mm"},
    "normals": {},
    "depth": {"scale": 0.01},
}


def test_command_line_and_file_say_the_same_and_survive():
    config = load_config(SMOKE, OWN)
    assert said(config.task) == SAID
    written = base_config()
    written.task.garments = {"kind": "classes", "classes": ["background", "shirt"], "colours": "#000000, #ff0000"}
    written.task.heat.kind = "regression"  # a task is there when it is first looked at, though the section is locked
    written.task.heat.ignore = -1
    written.task.edge.loss_weight = 5.0
    assert said(written.task) == SAID
    stored = from_json(to_json(config))
    assert said(stored.task) == SAID
    assert config_diff(config, stored) == []
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), config.copy_and_resolve_references()):
        assert said(other.task) == SAID
        assert isinstance(other.task, TaskFields)
    assert [task.name for task in build_tasks(stored)] == ["garments", "heat", "edge"]


def test_nothing_is_kept_of_what_is_not_said():
    config = load_config(SMOKE, ["task.edge.loss_weight=5", "task.edge.loss_weight=none", "task.sal.loss_weight=none"])
    assert said(config.task) == {}
    assert [name for name in flatten(config) if name.startswith("task.")] == []
    assert config_diff(load_config(SMOKE), config) == []
    changed = config_diff(load_config(SMOKE), load_config(SMOKE, ["task.depth.loss_weight=3"]))
    assert changed == ["task.depth.loss_weight: (absent) -> 3.0"]
    load_config(SMOKE, ["checkpoint.allow_changed=task.depth.loss_weight,seed"])


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("task.garments.kind=clases", "config: task.garments.kind: unknown name 'clases'. Did you mean 'classes'?"),
        ("task.garments.classes=none", "config: task.garments.classes: missing: kind 'classes' needs the names"),
        ("task.garments.classes=a", "config: task.garments.classes: got ('a',), expected 2 to 255 different names"),
        ("task.garments.classes=a,b,a", "expected 2 to 255 different names"),
        ("task.garments.classes=256", "config: task.garments.classes: got 256, expected 2 to 255"),
        ("task.garments.classes=a,b,c", "config: task.garments.colours: got 2 of them, expected 3: one for each of a,"),
        ("task.garments.colours=#000000,red", "expected a different colour per class, as #rrggbb"),
        ("task.garments.colours=#000000,000000", "expected a different colour per class, as #rrggbb"),
        ("task.garments.ids=1", "config: task.garments.ids: got 1 of them, expected 2: one for each of background"),
        ("task.garments.ids=1,1", "config: task.garments.ids: got (1, 1), expected a different whole number per class"),
        ("task.garments.ignore=0", "config: task.garments.ignore: 0 is the class 'background' as well; leave that"),
        ("task.garments.ignore=#ff0000", "is the class 'shirt' as well"),
        ("task.garments.ignore=white", "config: task.garments.ignore: got 'white', expected a number, a colour"),
        ("task.garments.scale=2", "config: task.garments.scale: an option of kind 'regression' 'depth'; 'classes' has"),
        ("task.garments.knd=mask", "config: task.garments.knd: unknown field. Did you mean 'kind'?"),
        (
            "task.heat.colours=#000000",
            "config: task.heat.colours: an option of kind 'classes'; 'regression' has: ignore",
        ),
        ("task.heat.metric=mIoU", "config: task.heat.metric: unknown name 'mIoU'. Known: rmse mae"),
        (
            "task.heat.ignore=#ff0000",
            "config: task.heat.ignore: got '#ff0000', expected a number: colours are those of",
        ),
        ("task.heat.scale=0", "config: task.heat.scale: got 0.0, expected a number above 0"),
        ("task.heat.folder=images", "config: task.heat.folder: got 'images', which holds the images"),
        ("task.heat.folder=../other", "config: task.heat.folder: got '../other', expected a folder below train/"),
        ("task.edge.loss_weight=-1", "config: task.edge.loss_weight: got -1.0, expected a number at least 0"),
        ("task.edge.loss_weight=much", "config: task.edge.loss_weight: got 'much', expected a number"),
        ("task.edge.classes=a,b", "config: task.edge.classes: is said of labels of your own, and task.edge.kind says"),
        ("task.eedge.loss_weight=1", "config: task.eedge: there is no such task. Did you mean 'edge'?"),
        ("task.Edge.loss_weight=1", "config: task.Edge.loss_weight: 'Edge' is no name of a task: small letters"),
        ("task.edge=5", "config: task.edge: is a group of fields; set one of them. Known: kind classes"),
        ("task.unused.kind=classes", "config: task.unused.classes: missing"),
    ],
)
def test_what_cannot_be_said_is_one_line(override, line):
    with pytest.raises(ConfigError) as error:
        load_config(SMOKE, [*OWN, override])
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_tasks_that_are_not_declared_are_named():
    config = load_config(SMOKE, [*OWN, "tasks=garments+heta"])
    with pytest.raises(ConfigError, match=r"'heta' is not a task of 'folder'. Did you mean 'heat'\? .*task.NAME.kind"):
        build_tasks(config)
    with pytest.raises(ConfigError, match=r"config: task.heat.kind: labels of your own are those of data.name=folder"):
        build_tasks(load_config(SMOKE, [*OWN, "data.name=scenes", "tasks=heat"]))
    one = {"mask": {"kind": "mask"}}
    assert [task.name for task in create_tasks("mask", "folder", options=one)] == ["mask"]
    for name in ("all_shared", "id"):
        with pytest.raises(ConfigError, match=f"config: task.{name}: a name is made of small letters"):
            create_tasks(name, "folder", options={name: {"kind": "mask"}})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_makes_a_whole_task(kind):
    """The checks that tasks of code pass; every score that may be asked for is one that it gives, in its direction."""
    declaration = {"kind": kind, **EVERY_KIND[kind]}
    metrics = {"classes": ("mIoU", "pixel_accuracy"), "mask": ("mIoU", "maxF", "odsF"), "regression": ("rmse", "mae")}
    metrics |= {"normals": ("mean", "rmse_true", "within_30"), "depth": ("rmse",)}
    for metric in metrics[kind]:
        check_declaration("own", declaration | {"metric": metric})
        task = declared_task("own", declaration | {"metric": metric})
        check_task(task)
        assert task.primary_metric == metric
        assert task.higher_is_better == (metric not in ("rmse", "mae", "mean", "rmse_true"))
        assert (task.unit == "fraction") == task.higher_is_better
        # What an adapter's file records makes the same task again.
        again = declared_task("own", {k: tuple(v) if isinstance(v, list) else v for k, v in _record(task).items()})
        assert again == task
    assert declared_task("own", declaration).primary_metric == metrics[kind][0]
    assert len({task, declared_task("other", declaration)}) == 2


def _record(task):
    return json.loads(task.declaration)


def test_the_built_in_task_gives_way_to_a_declaration_of_its_name():
    (depth,) = create_tasks("depth", "folder", options={"depth": {"kind": "regression"}})
    assert type(depth) is Regression
    (lines,) = create_tasks("lines", "folder", options={"lines": {"kind": "mask", "metric": "odsF"}})
    assert isinstance(lines, EdgeDetection)
    (semseg,) = create_tasks("semseg", "folder", options={"semseg": {"kind": "classes", "classes": 4}})
    assert semseg.class_names == ("background", "class 1", "class 2", "class 3")
    assert isinstance(create_tasks("sal", "folder", options={"sal": {"loss_weight": 2}})[0], Saliency)


def test_numbers_in_files_are_explained_by_the_declaration():
    facts = label_facts("g", {"kind": "classes", "classes": ("a", "b"), "ids": (3, 255), "ignore": (0, "#0000ff")})
    assert (facts["ids"], facts["ignore"], facts["folder"]) == ((3, 255), (0, (0, 0, 255)), "g")
    assert label_facts("g", {"kind": "classes", "classes": 3})["ignore"] == (255,)
    assert label_facts("g", {"kind": "classes", "classes": 2, "ids": (0, 255)})["ignore"] == ()
    assert label_facts("h", {"kind": "regression", "folder": "heat/maps"})["folder"] == "heat/maps"


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_task_of_every_data_set_has_a_weight(dataset):
    names, counts = DATASETS[dataset].tasks, {"vtab": {"classification": 3}, "folder": {"semseg": 3}}.get(dataset)
    usual = create_tasks(names, dataset, counts)
    for weight in (0.0, 7):
        options = {name: {"loss_weight": weight} for name in names}
        changed = create_tasks(names, dataset, counts, options=options)
        assert [task.loss_weight for task in changed] == [weight] * len(names)
        assert [dataclasses.replace(c, loss_weight=u.loss_weight) for c, u in zip(changed, usual, strict=True)] == [
            *usual
        ]


def test_the_weight_is_the_factor_in_the_total():
    label = {"heat": jnp.full((1, 2, 2), 3.0), "depth": jnp.full((1, 2, 2), 5.0)}
    logits = {name: jnp.ones((1, 2, 2, 1)) for name in label}
    options = {"heat": {"kind": "regression", "loss_weight": 10.0}, "depth": {"loss_weight": 0.5}}
    total, losses = multi_task_loss(create_tasks("heat+depth", "folder", options=options), logits, label)
    assert {name: float(loss) for name, loss in losses.items()} == {"heat": 2.0, "depth": 4.0}
    assert float(total) == 10.0 * 2.0 + 0.5 * 4.0


@pytest.mark.parametrize("field", ["task.depth.loss_weight", "tasks.depth.loss_weight"])
def test_a_sweep_varies_the_weight_of_a_loss(field, tmp_path):
    sweep = Sweep(grid(SMOKE, {field: [1, 5.5], "tasks.semseg.loss_weight": [2.0]}))
    jobs = make_jobs(sweep, tmp_path)
    assert [job.name for job in jobs] == [f"depth_loss_weight{w}_semseg_loss_weight2.0" for w in (1, 5.5)]
    assert [{t.name: t.loss_weight for t in build_tasks(job.config)}["depth"] for job in jobs] == [1.0, 5.5]
    with pytest.raises(ConfigError, match=r"--config.task.depth.loss_weight: the sweep varies this field"):
        make_jobs(sweep, tmp_path, ["task.depth.loss_weight=3"])
    labels = row_labels([("ditask", flatten(job.config)) for job in jobs])
    assert [label for label, _ in labels] == ["ditask depth.loss_weight=1", "ditask depth.loss_weight=5.5"]


def test_every_option_has_a_line_of_help_and_a_rule():
    for name, option in options_of(TaskOptions).items():
        assert option.help.endswith(".")
        assert option.optional, name
        with pytest.raises(ConfigError, match=f"config: task.x.{name}: got"):
            option.check(f"config: task.x.{name}", object())


def test_regression_scores_what_numpy_finds():
    rng = np.random.default_rng(0)
    label = rng.normal(size=(3, 4, 5)).astype(np.float32)
    logits = rng.normal(size=(3, 4, 5, 1)).astype(np.float32)
    label[0, 1], label[1, 2, 3] = IGNORE, 0.0
    valid = np.array([True, True, False])
    task = Regression(name="heat", unit="mm")
    mask = (label != IGNORE) & valid[:, None, None]
    error = (logits[..., 0] - label)[mask].astype(np.float64)
    scores = task.finalize(task.accumulate(None, task.metric_sums(logits, label, valid)))
    assert scores == pytest.approx({"rmse": np.sqrt(np.mean(error**2)), "mae": np.mean(np.abs(error))}, rel=1e-6)
    assert float(task.loss(logits, label, valid)) == pytest.approx(np.mean(np.abs(error)), rel=1e-6)
    assert np.array_equal(task.decode(logits), logits[..., 0])  # of any sign
    assert task.finalize(task.metric_sums(logits, np.full_like(label, IGNORE))) == {}
    assert float(task.loss(logits, np.full_like(label, IGNORE))) == 0
    assert task.raw_form("png").describes["unit"] == "mm"
    low, high = task.value_range(label)
    assert (low, high) == (label[label != IGNORE].min(), label[label != IGNORE].max())
    drawn = task.picture(np.where(label[0] == IGNORE, IGNORE, low), (low, high))
    assert (drawn[1] == 0).all()
    assert len(np.unique(drawn[[0, 2, 3]].reshape(-1, 3), axis=0)) == 1
    assert task.value_range(np.full((2, 2), IGNORE)) is None


def test_classes_have_the_colours_and_the_accuracy_that_were_asked_for():
    colours = ("#102030", "#ffffff", "#00ff00")
    said = {"kind": "classes", "classes": ("a", "b", "c"), "colours": colours, "metric": "pixel_accuracy"}
    task = declared_task("g", said)
    label = np.array([[[0, 1, 2, 255]]], np.uint8)
    assert [bytes(pixel).hex() for pixel in task.render(label[0])[0]] == ["102030", "ffffff", "00ff00", "ffffff"]
    assert task.raw_form("png").palette[2].tolist() == [0, 255, 0]
    logits = np.eye(3, dtype=np.float32)[np.array([[[0, 2, 2, 1]]])]
    scores = task.finalize(task.metric_sums(logits, label))
    assert scores == pytest.approx({"mIoU": (1 + 0 + 1 / 2) / 3, "pixel_accuracy": 2 / 3})


def test_references_of_declared_tasks(tmp_path):
    file = tmp_path / "references.json"
    file.write_text(json.dumps({"scores": {"heat": {"metric": "mae", "value": 2.5}}, "source": "mine"}))
    task = declared_task("heat", {"kind": "regression", "metric": "mae"})
    assert load_references("folder", file, [task]) == {"heat": 2.5}
    with pytest.raises(ConfigError, match="unknown name 'heat'"):
        load_references("folder", file)
