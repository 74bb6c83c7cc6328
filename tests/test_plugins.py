"""Tasks, methods, backbones and data sets of a user's own: what they may be, and how their mistakes are told."""

import dataclasses
import io
import json
import textwrap

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ditask_jax as dj
from ditask_jax import backbones, cli, plugins
from ditask_jax.adapters import LayerPlan, make_plan, method_registry
from ditask_jax.backbones import BackboneEntry, Roles
from ditask_jax.backbones.blocks import Backbone, Place, add_branch, tap
from ditask_jax.backbones.geometry import as_size
from ditask_jax.conversion.exporting import export_weights
from ditask_jax.conversion.layout_registry import LAYOUTS, register_layout
from ditask_jax.conversion.layouts import Family, Layout
from ditask_jax.conversion.names import CONVOLUTION, TRANSPOSE, Rule, Table
from ditask_jax.data import open_source, sources
from ditask_jax.data.augment import transform
from ditask_jax.errors import ConfigError, DataError, WeightsError
from ditask_jax.labels import LabelSpec
from ditask_jax.nn import Context
from ditask_jax.nn.context import Scope
from ditask_jax.nn.conv import PatchEmbed
from ditask_jax.nn.linear import SHARED, LayerAdapter, Linear, linears, pick_streams
from ditask_jax.plots.panels import prediction_cell
from ditask_jax.plots.sheet import key_of
from ditask_jax.prediction.outputs import describe_raw, encode_raw, raw_ending
from ditask_jax.prediction.tiling import resized_map
from ditask_jax.reports.published import task_header
from ditask_jax.tasks import Classification, Depth, Saliency, Task, load_references, task_registry
from ditask_jax.tasks.base import RawForm, check_task
from ditask_jax.training.evaluation import Evaluation, _host_sums, score_table
from ditask_jax.training.experiment import build_method
from ditask_jax.weight_files import read_tensors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow(Task):
    """Two numbers per pixel, more is better, scored on the host, in a unit of its own."""

    name: str = "flow"
    num_outputs: int = 2
    loss_weight: float = 1.0
    primary_metric: str = "hits"
    higher_is_better: bool = True
    unit: str = "points"
    on_host: bool = True

    @property
    def label_spec(self):
        return LabelSpec(self.name, channels=2, dtype="float32")

    @property
    def sum_shapes(self):
        return {"hits": (), "pixels": ()}

    def loss(self, logits, label, valid=None):
        return jnp.mean(jnp.abs(logits - label))

    def decode(self, logits):
        return logits.astype(jnp.float32)

    def host_sums(self, prediction, label, valid=None):
        hits = (np.abs(prediction - label).max(-1) < 1).sum((1, 2))
        return {"hits": hits, "pixels": np.full(len(label), label[0, ..., 0].size)}

    def render(self, picture, value_range=None):
        return np.zeros((*picture.shape[:2], 3), np.uint8)

    def _scores(self, total):
        return {"hits": np.float32(total["hits"] / total["pixels"])}

    def _details(self, total):
        return {"pixels": total["pixels"], "list": [np.int64(3), np.arange(2)]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pose(Flow):
    """Two numbers per image."""

    name: str = "pose"
    unit: str = "gon"

    @property
    def label_spec(self):
        return LabelSpec(self.name, channels=2, dtype="float32", is_map=False)

    def render(self, picture, value_range=None):
        return np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)


@pytest.mark.parametrize(
    ("task", "shown", "header"),
    [
        (Depth(unit="mm"), "2.50 mm", "depth rmse ↓ (mm)"),
        (Depth(unit=""), "2.50", "depth rmse ↓"),
        (Depth(unit="inverse"), "2.50 1/m", "depth rmse ↓ (1/m)"),
        (Flow(), "2.50 points", "flow hits ↑ (points)"),
        (Saliency(), "250.00 %", "sal mIoU ↑ (%)"),
    ],
)
def test_any_unit_is_shown(task, shown, header):
    assert task_header(task) == header
    found = Evaluation(3, {task.name: {task.primary_metric: 2.5}}, {}, None, {task.name: 5.0})
    line = score_table(found, [task]).splitlines()[1]
    assert f" {shown} " in line
    assert line.endswith("+50.00 %" if not task.higher_is_better else "-50.00 %")


def test_predictions_of_any_kind_become_files():
    flow = resized_map(Flow(), np.arange(24.0, dtype=np.float32).reshape(3, 4, 2) * 1e4, (6, 8))
    assert (flow.shape, flow.dtype) == ((6, 8, 2), np.float32)
    for format in ("npy", "png"):
        assert raw_ending(Flow(), format) == ".npy"
        content = encode_raw(Flow(), flow, format)
        np.testing.assert_array_equal(np.load(io.BytesIO(content)), flow)
        assert describe_raw(Flow(), format)["unit"] == "points"
    pose = json.loads(encode_raw(Pose(), np.float32([1.5, np.nan]), "npy"))
    assert pose == {"value": [1.5, None]}
    # A unit that the data sets' files have no scale for is not squeezed into 16 bits.
    assert raw_ending(Depth(unit="mm"), "png") == ".npy"
    assert raw_ending(Depth(unit="metres", name="height"), "png") == ".png"


def test_a_task_says_what_its_files_hold():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(Depth):
        form: RawForm

        def raw_form(self, format):
            return self.form

    tens = RawForm(".png", {"holds": "tens"}, lambda value: (value / 10).astype(np.uint8))
    content = encode_raw(Own(form=tens), np.float32([[20.0, 30.0]]), "npy")
    assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED).tolist() == [[2, 3]]
    for form, message in (
        (RawForm(".png", {}), r"encodes to float32 \[1, 2\], but a PNG holds uint8"),
        (RawForm(".tif", {}), "ending '.tif', expected one of .npy .png .json"),
    ):
        with pytest.raises(ConfigError, match=f"task 'depth' .*Own of 'test_plugins.py'.*{message}"):
            encode_raw(Own(form=form), np.float32([[20.0, 30.0]]), "npy")


def test_pictures_and_keys_are_the_task_s():
    image = np.zeros((20, 30, 3), np.uint8)
    cell = prediction_cell(Pose(), np.float32([1, 2]), None, image)
    assert cell.picture.shape == image.shape
    assert cell.picture[:, :15].max() == 0
    assert cell.picture[:, 15:].min() == 255
    assert key_of(Flow(), [np.zeros((2, 2, 2))]) == []
    height = Depth(name="height", unit="mm")
    assert prediction_cell(height, np.ones((2, 2)), (1.0, 2500.0), image).note == "1 to 2.5e+03 mm"
    assert key_of(height, [])[0].text == "height:"
    labels = [np.uint8([[0, 1, 255]])]
    assert [entry.text for entry in key_of(Saliency(), labels)] == ["sal:", "no", "yes", "no label"]
    bad = type("Bad", (Flow,), {"render": lambda self, picture, value_range=None: picture})()
    with pytest.raises(ConfigError, match=r"render returned float64 \[2, 2, 2\], expected a colour image"):
        bad.picture(np.zeros((2, 2, 2)))


def test_scores_and_details_are_plain_data():
    total = Flow().accumulate(None, Flow().host_sums(np.zeros((2, 4, 4, 2)), np.zeros((2, 4, 4, 2))))
    assert json.dumps([Flow().finalize(total), Flow().details(total)]) == (
        '[{"hits": 1.0}, {"pixels": 32, "list": [3, [0, 1]]}]'
    )


METHODS_OF_TASKS = {
    "loss": (lambda self, logits, label, valid=None: jnp.abs(logits[..., 0] - label).mean((1, 2)),
             r"loss returned float32 \[2\], expected one number"),
    "decode": (lambda self, logits: logits.mean(), r"decode makes float32 \[\] of logits \[2, 8, 8, 1\]"),
    "metric_sums": (lambda self, logits, label, valid=None: {"pixels": logits},
                    "metric_sums returned pixels, but sum_shapes names squared_error"),
    "label_spec": (property(lambda self: LabelSpec("other")), "label_spec is LabelSpec.*expected LabelSpec.name="),
    "on_host": (True, "there is no host_sums"),
    "unit": (None, 'unit: got None, expected a text, "" for no unit'),
    "num_outputs": (0, "num_outputs: got 0, expected a whole number from 1 on"),
    "_scores": (lambda self, total: {"mae": 1.0}, "_scores returned mae, but primary_metric is rmse"),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS_OF_TASKS)
def test_a_task_that_does_not_fit_itself_is_refused_by_name(name):
    method, message = METHODS_OF_TASKS[name]
    task = type("Bad", (Depth,), {name: method})()
    if name in ("on_host", "unit", "num_outputs"):
        task = Depth(**{name: method})
    with pytest.raises(ConfigError, match=f"task 'depth' .*{message}"):
        check_task(task)


def test_scores_are_tried_before_anything_trains():
    """A mistake in them must not wait for the end of a training; what only other totals allow is no mistake."""
    scored = lambda scores: type("Own", (Flow,), {"_scores": scores})()
    for scores, message in (
        (lambda self, total: [1.0], "_scores returned a list, expected scores by name"),
        (lambda self, total: {"hits": None}, "_scores: 'hits' is None, expected one number"),
        (lambda self, total: {"hits": np.ones(3)}, r"_scores: 'hits' is array.*expected one number"),
    ):
        with pytest.raises(ConfigError, match=f"task 'flow' .*{message}"):
            check_task(scored(scores))
    with pytest.raises(KeyError, match="hit"):
        check_task(scored(lambda self, total: {"hits": total["hit"]}))
    for scores in (
        lambda self, total: {},
        lambda self, total: {"hits": int(total["hits"]) / int(total["pixels"] - 1)},
        lambda self, total: {"hits": np.float64(np.nan), "more": 1},
        lambda self, total: {"hits": np.log(total["hits"] - 1), "all": len(range(total["pixels"]))},
    ):
        check_task(scored(scores))


def test_sums_on_the_host_are_checked_at_the_pictures_own_size():
    task = type("Own", (Flow,), {"host_sums": lambda self, prediction, label, valid=None: {"hits": np.zeros(1)}})()
    batch = {"labels": {"flow": np.zeros((1, 8, 8, 2), np.float32)}, "valid": np.ones(1, bool), "size": [(4, 4)]}
    with pytest.raises(ConfigError, match="host_sums returned hits, but sum_shapes names hits pixels"):
        list(_host_sums(task, np.zeros((1, 8, 8, 2)), batch))


def test_vectors_scored_on_the_host_have_no_size_of_their_own():
    """Beside maps that have: they are not cut."""
    counted = lambda self, prediction, label, valid=None: {
        name: np.full(2, prediction.size) for name in self.sum_shapes
    }
    batch = {"labels": {"pose": np.zeros((2, 2))}, "valid": np.ones(2, bool), "size": [(4, 4), (1, 1)]}
    (sums,) = _host_sums(type("Own", (Pose,), {"host_sums": counted})(), np.zeros((2, 2)), batch)
    assert sums["hits"].tolist() == [4, 4]


def test_sums_without_images_are_refused():
    zeros = lambda self, logits, label, valid=None: {name: jnp.zeros(()) for name in self.sum_shapes}
    with pytest.raises(ConfigError, match=r"the sum 'squared_error' of 2 images has shape \[\], expected \[2, ...\]"):
        check_task(type("Bad", (Depth,), {"metric_sums": zeros})())


@pytest.mark.parametrize(
    "task", [Flow(), Pose(), Depth(), Saliency(), Classification(num_outputs=3, class_names=("a",) * 3)]
)
def test_tasks_that_fit_pass(task):
    check_task(task)


def test_labels_of_a_user_s_own():
    image = np.zeros((4, 6, 3), np.uint8)
    specs = [Pose().label_spec, LabelSpec("grade", dtype="float32", is_map=False), LabelSpec("kinds", num_values=3)]
    example = {"image": image, "pose": [1, 2], "grade": -7.5, "kinds": np.ones((4, 6), np.int64)}
    labels = transform(example, specs, (8, 8))["labels"]
    assert labels["pose"].tolist() == [1.0, 2.0]
    assert float(labels["grade"]) == -7.5
    assert labels["kinds"].dtype == np.uint8
    for name, value, message in (
        ("pose", 3.0, r"label 'pose' has shape \(\); expected \(2,\)"),
        ("grade", [1, 2], r"label 'grade' has shape \(2,\); expected one number"),
        ("kinds", np.ones((4, 6, 1), np.uint8), r"label 'kinds' has shape \[4, 6, 1\]; expected uint8 \[H, W\]"),
        ("kinds", np.full((4, 6), 300), "holds 300 to 300, which uint8 cannot"),
        ("kinds", [[1]], r"label 'kinds' is list; expected an array uint8 \[H, W\]"),
        ("image", np.zeros((4, 6, 3)), r"its image is float64 \[4, 6, 3\]; expected uint8 \[H, W, 3\]"),
    ):
        with pytest.raises(DataError, match=message):
            transform({**example, name: value}, specs, (8, 8))


@pytest.fixture
def registered():
    """Whatever a test registers is forgotten."""
    tables = (backbones.REGISTRY, backbones._CLASSES, task_registry._OTHERS, sources.OPENERS, method_registry._METHODS)
    before, layouts = [dict(table) for table in tables], list(LAYOUTS)
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    LAYOUTS[:] = layouts


def test_references_of_a_task_of_one_s_own(registered, tmp_path):
    task_registry._OTHERS["flow"] = lambda info: Flow()
    file = tmp_path / "references.json"
    file.write_text(json.dumps({"scores": {"flow": {"metric": "hits", "value": 7.0}}}))
    assert load_references("scenes", file) == {"flow": 7.0}
    file.write_text(json.dumps({"scores": {"flow": {"metric": "mIoU", "value": 7.0}}}))
    with pytest.raises(ConfigError, match="expected 'hits'"):
        load_references("scenes", file)


# --- data sets


def test_only_a_wrong_signature_is_called_one(registered):
    """What goes wrong inside an opener is its own affair, whatever the text of its error."""

    def stray(request):
        raise TypeError("draw() got an unexpected keyword argument 'colour'")

    sources.OPENERS["own"] = stray
    with pytest.raises(TypeError, match="'colour'") as caught:
        open_source("own", "train", ["depth"])
    assert caught.traceback[-1].name == "stray"
    assert "has no option" not in str(caught.value)
    for opener, message in (
        (lambda: (), r"opener takes \(\), expected one argument, the Request"),
        (lambda request, root: [], r"opener takes \(request, root\), expected one argument"),
        (lambda request: None, "opener returned a NoneType, expected a source"),
    ):
        sources.OPENERS["own"] = opener
        with pytest.raises(ConfigError, match=f"data set 'own' .*test_plugins.py.*{message}"):
            open_source("own", "train", ["depth"])


def test_a_source_without_examples_is_told(registered):
    sources.OPENERS["own"] = lambda request: []
    with pytest.raises(DataError, match=r"data set 'own' .*there are no examples of the split 'val'"):
        open_source("own", "val", ["depth"])
    sources.OPENERS["own"] = dict  # its signature cannot be asked for
    with pytest.raises(TypeError, match="not iterable"):
        open_source("own", "val", ["depth"])


@pytest.mark.parametrize("name", ["scenes", "folder", "pascal", "vtab"])
def test_options_that_there_are_not_are_named(name, tmp_path):
    with pytest.raises(ConfigError, match=f"config: data: '{name}' has no option 'colour'. .*Known: "):
        open_source(name, "train", ["depth"], root=tmp_path, colour=3)


def test_what_cannot_be_registered_says_why():
    for wrong, message in (
        (lambda: dj.register_task(Depth, ["scenes"]), "an object of the class, not the class itself"),
        (lambda: dj.register_task(Flow(), "scenes"), r"expected a list of names, such as \['scenes'\]"),
        (lambda: dj.register_dataset("own", [], ["depth"]), r"opener: got \[\], expected a function"),
        (lambda: dj.register_dataset("own", len, "depth"), r"expected a list of names, such as \['depth'\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            wrong()


# --- files


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes a plugin of a name of its own and sets the variable."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, text):
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(text))
        monkeypatch.setenv("DITASK_PLUGINS", str(path))
        monkeypatch.setattr(plugins, "_FILES", {})
        return path

    return write


@pytest.mark.parametrize(
    ("name", "text", "line", "message"),
    [
        ("plug_syntax", "import json\n\ndef f(:\n", 3, "SyntaxError: invalid syntax"),
        ("plug_missing", "import json\nimport no_such_module_here\n", 2, "ModuleNotFoundError: No module named"),
        ("plug_of_0_1", "from ditask_jax.nn.scope import Scope\n", 1, "CHANGELOG.md says what moved in version 0.2"),
        ("plug_raises", "def g():\n    return 1 / 0\n\ng()\n", 2, "ZeroDivisionError: division by zero"),
        ("plug_leaves", "import sys\n\nsys.exit(3)\n", 3, "SystemExit: 3"),
        ("plug_registers", "import ditask_jax as dj\ndj.register_dataset('scenes', len, [])\n", 2, "data set 'scenes'"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line(file, capsys, name, text, line, message):
    path = file(name, text)
    assert cli.execute(lambda argv: cli.OK, []) == cli.USER_ERROR
    error = capsys.readouterr().err
    assert error.startswith(f"plugins: {path}, line {line}")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("return [][1]", cli.BUG, "IndexError: list index out of range"),
        ("return open('/no/such/file')", cli.USER_ERROR, "/no/such/file: No such file or directory"),
    ],
)
def test_an_error_inside_a_file_says_where(file, capsys, body, code, message):
    path = file(f"plug_inside_{code}", f"def opener(request):\n    {body}\n")

    def main(argv):
        return __import__(path.stem).opener(None)

    assert cli.execute(main, []) == code
    *before, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith(f"plugins: {path}, line 2, in opener: ")
    assert message in last
    # A bug keeps its traceback, a missing file needs none.
    assert any(text.startswith("Traceback") for text in before) == (code == cli.BUG)


def test_an_error_of_our_own_is_no_plugin_s(file):
    file("plug_nothing", "")
    with pytest.raises(KeyError):
        cli.execute(lambda argv: {}["ours"], [])


def test_names_that_cannot_be_imported(tmp_path):
    path = tmp_path / "my-task.v2.py"
    path.write_text("")
    with pytest.raises(ConfigError, match="a file's name is made of letters"):
        plugins.load_plugins(str(path))


# --- methods


class Gains(LayerAdapter):
    """Factors of outputs, and a buffer that does not train."""

    def __init__(self, outputs, power=1.0):
        self.power = power
        self.gain_shared = nnx.Param(jnp.ones(outputs, jnp.float32))
        self.mean = nnx.BatchStat(jnp.full(outputs, 2.0))

    def __call__(self, linear, x, streams, context):
        return x @ self.merged_kernel(linear, None)

    def merged_kernel(self, linear, prepared):
        return linear.kernel[...] * (self.gain_shared[...] ** self.power * self.mean[...])[None]


class Bare(LayerAdapter):
    """It cannot be merged, and does not say so."""


def make_method(**members):
    """A method class as a user writes one, without a name in the registry."""

    @dataclasses.dataclass(frozen=True)
    class Own(dj.Method):
        power: float = 1.0
        ranks: tuple = (1, 2)

        def trains(self, path):
            return path.endswith("scale")

        def plan_layer(self, site):
            return LayerPlan(site.info, site.shape, (), {"gain_shared": site.shape[1:]}, "beside")

        def attach(self, linear, plan, factors, seed):
            return Gains(plan.shape[1], self.power)

    for name, value in members.items():
        setattr(Own, name, value)
    return Own


def small_model(backbone="swin_test", tasks="depth", size=32):
    return dj.create_model(
        backbone, dj.create_tasks(tasks, "scenes"), size, widths=None if backbone == "own_net" else (4,) * 4
    )


def test_options_are_filled_by_name():
    config = {"name": "own", "power": 3.0, "ranks": [4, 5], "shared_cells": 8}
    method = make_method().from_config(config)
    assert (method.power, method.ranks) == (3.0, (4, 5))
    assert method.describe() == "power 3, ranks 4/5"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"attach": lambda self, *rest: None}, "attach returned a NoneType, expected an object of a subclass"),
        ({"plan_layer": lambda self, site: {"a": 1}}, "plan_layer returned a dict, expected a LayerPlan"),
        (
            {"plan_layer": lambda self, site: LayerPlan(site.info, site.shape, (), {"g_shared": (3,)}, "beside")},
            r"plan_layer says that g_shared \[3\] train in '.*', the adapter of attach has gain_shared",
        ),
        (
            {"attach": lambda self, linear, plan, factors, seed: Bare()},
            "Bare of 'test_plugins.py' has no merged_kernel",
        ),
    ],
)
def test_a_method_that_does_not_fit_itself_is_refused_by_file(members, message):
    with pytest.raises(ConfigError, match=f"method '' .*Own of 'test_plugins.py'.*{message}"):
        dj.wrap(small_model(), make_method(**members)())


@pytest.mark.parametrize("wrong", [lambda kernel: kernel.T, lambda kernel: kernel[None], lambda kernel: None])
def test_a_kernel_that_does_not_fit_its_layer_is_refused(wrong, monkeypatch):
    """Not behind a training, by an error of a matrix product, nor by a file of arrays the other way round."""

    class Turned(Gains):
        def merged_kernel(self, linear, prepared):
            return wrong(super().merged_kernel(linear, prepared))

    method = make_method(attach=lambda self, linear, plan, factors, seed: Turned(plan.shape[1]))()
    message = r"Turned of 'test_plugins.py': merged_kernel gives 'backbone.*, expected \[\d+, \d+\]"
    with pytest.raises(ConfigError, match=message):
        dj.wrap(small_model(), method)
    model = small_model()
    dj.wrap(model, make_method()())
    monkeypatch.setattr(Gains, "merged_kernel", lambda self, linear, prepared: wrong(linear.kernel[...]))
    with pytest.raises(ConfigError, match=r"Gains of 'test_plugins.py': merged_kernel gives"):
        dj.merge(model)


def test_a_method_s_name_is_taken_once(registered):
    body = {"name": "ditask"}
    with pytest.raises(ConfigError, match=r"method 'ditask' is registered already, DiTASK of 'ditask\.py'"):
        type("DiTASK", (dj.Method,), body)


def test_from_config_must_make_a_method(registered):
    type("Nothing", (dj.Method,), {"name": "nothing", "from_config": classmethod(lambda cls, config: None)})
    config = type("Config", (), {"recipe": "published", "method": type("Section", (), {"name": "nothing"})})
    with pytest.raises(ConfigError, match="from_config returned a NoneType"):
        build_method(config)


# --- backbones


@dataclasses.dataclass(frozen=True)
class OwnConfig:
    """One stage; a field that JSON does not know."""

    channels: int = 6
    depth: int = 2
    activation: object = np.tanh
    readouts = ("map",)

    @property
    def feature_channels(self):
        return (self.channels,)


class Odd(nnx.Module):
    """Names that PyTorch calls alike."""

    def __init__(self, channels, scope):
        self.kernel = nnx.Param(scope.normal("kernel", (channels,), 0.1))
        self.scale = nnx.Param(scope.normal("scale", (channels,), 0.1))
        self.weight = nnx.Param(scope.normal("weight", (channels, 2), 0.1))

    def __call__(self, x):
        return x * (1 + self.kernel[...] + self.scale[...] + self.weight[...].sum(-1)).reshape(1, 1, 1, 1, -1)


class OwnBlock(nnx.Module):
    """Roles of its own; the layers stand in another order than that of their names."""

    def __init__(self, channels, scope, place):
        self.odd = Odd(channels, scope / "odd")
        self.zoom = Linear(channels, 2 * channels, scope / "zoom", place.info("zoom", "zoom"))
        self.back = Linear(2 * channels, channels, scope / "back", place.info("back", "back"))

    def __call__(self, x, streams, context):
        y = self.zoom(self.odd(x), streams, context)
        inner = self.zoom.streams_out(streams)
        y = self.back(jnp.tanh(y), inner, context)
        leaving = self.back.streams_out(inner)
        return add_branch(pick_streams(x, streams, leaving), y), leaving


class OwnNet(Backbone):
    """One stage of two blocks."""

    roles = Roles(order=("zoom", "back"), task=("zoom", "back"), ends=("back",))

    def __init__(self, config, image_size, drop_path_rate, scope=None, readout="map"):
        scope = scope or Scope(path="backbone")
        self.config, self.image_size, self.readout = config, as_size(image_size), readout
        self.patch_embed = PatchEmbed(3, config.channels, 4, scope / "patch_embed")
        places = [(scope / "layers" / k, k == config.depth - 1) for k in range(config.depth)]
        self.layers = nnx.List(
            [
                OwnBlock(config.channels, here, Place(here.path, 0, k, last, last, 64))
                for k, (here, last) in enumerate(places)
            ]
        )

    def __call__(self, images, context):
        x, streams = self.patch_embed(images, context)[None], (SHARED,)
        for block in self.layers:
            x, streams = block(x, streams, context)
        return self.finish([tap(x, streams)])

    def finish(self, taps):
        return taps


@pytest.fixture
def own_net(registered):
    dj.register_backbone("own_net", BackboneEntry(OwnConfig(), image_size=32), OwnNet)


def test_roles_of_a_backbone_order_its_layers(own_net):
    model = small_model("own_net")
    assert [(l.info.block, l.info.role) for l in linears(model.backbone)] == [
        (0, "zoom"), (0, "back"), (1, "zoom"), (1, "back"),
    ]  # fmt: skip


OWN_METHODS = [
    dj.DiTASK(shared_cells=4, task_cells=4, dropout=0.0, shared_layers=("zoom", "back"), task_layers=("back",)),
    dj.MTLoRA(shared_rank=2, task_rank=2, dropout=0.0, shared_layers=("zoom",), task_layers=("zoom", "back")),
    dj.LoRA(layers=("zoom", "back"), dropout=0.0),
]


@pytest.mark.parametrize("method", OWN_METHODS, ids=lambda method: method.name)
def test_methods_and_exports_go_by_the_backbone_s_names(own_net, method, tmp_path):
    model = small_model("own_net", "depth+sal")
    plan = dj.wrap(model, method)
    assert {layer.info.role for layer in plan.layers} == {"zoom", "back"}
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    # As a program each: of operations by themselves one is compiled for every shape.
    logits_of = lambda network: jax.jit(lambda pictures: network(pictures, Context(train=False)))(images)
    expected = logits_of(model)
    merged = dj.merge(model)
    for name, logits in logits_of(merged).items():
        np.testing.assert_allclose(logits, expected[name], atol=2e-5)
    export_weights(tmp_path / "own.safetensors", model)
    tensors, metadata = read_tensors(tmp_path / "own.safetensors", "export")
    described = json.loads(metadata["model"])
    assert described["family"] == "own"
    assert "tanh" in described["config"].pop("activation")
    assert described["config"] == {"channels": 6, "depth": 2}
    odd = merged.backbone.layers[1].odd
    for name in ("kernel", "scale", "weight"):
        np.testing.assert_array_equal(tensors[f"backbone.layers.1.odd.{name}"], getattr(odd, name)[...])
    back = merged.backbone.layers[1].back
    kernels = {"": back.kernel[...]}
    if back.merged_streams:
        kernels = {f".streams.{s}": k for s, k in zip(back.merged_streams, back.kernel[...], strict=True)}
    for stream, kernel in kernels.items():
        np.testing.assert_array_equal(tensors[f"backbone.layers.1.back{stream}.weight"], np.asarray(kernel).T)
    with pytest.raises(WeightsError, match=r"'own_net' declares no names of another code base; .*register_layout"):
        export_weights(tmp_path / "timm.safetensors", model, "timm")


def test_a_layout_of_another_code_base_can_be_declared(own_net, tmp_path):
    rules = [
        Rule(f"their.{{n}}.{name}.w", f"backbone/layers/{{n}}/{name}/kernel", TRANSPOSE) for name in ("zoom", "back")
    ]
    rules += [Rule(f"their.{{n}}.{name}.b", f"backbone/layers/{{n}}/{name}/bias") for name in ("zoom", "back")]
    rules += [
        Rule(f"their.{{n}}.{name}", f"backbone/layers/{{n}}/odd/{name}") for name in ("kernel", "scale", "weight")
    ]
    rules += [Rule("stem.w", "backbone/patch_embed/kernel", CONVOLUTION), Rule("stem.b", "backbone/patch_embed/bias")]
    rules += [Rule(f"stem.norm.{name}", f"backbone/patch_embed/norm/{name}") for name in ("scale", "bias")]
    family = Family("Own", OwnConfig, lambda arrays: {}, lambda fields, arrays: (32, 32), r"$^")
    register_layout(Layout("timm", family, Table(rules), (r"their\.0\.zoom",)))
    model = small_model("own_net")
    dj.wrap(model, dj.LoRA(layers=("zoom",), dropout=0.0))
    export_weights(tmp_path / "timm.safetensors", model, "timm")
    tensors, _ = read_tensors(tmp_path / "timm.safetensors", "export")
    np.testing.assert_array_equal(tensors["their.0.back.w"], np.asarray(model.backbone.layers[0].back.kernel[...]).T)
    with pytest.raises(ConfigError, match="Own has the layout 'timm' already"):
        register_layout(Layout("timm", family, Table(rules), ()))


def test_a_method_for_layers_that_there_are_not_is_refused(own_net):
    with pytest.raises(ConfigError, match=r"'lora' is for layers qkv proj fc1 fc2, of which OwnNet of .*zoom back"):
        make_plan(small_model("own_net"), dj.LoRA())
    with pytest.raises(ConfigError, match=r"unknown name 'zom'\. Did you mean 'zoom'"):
        make_plan(small_model("own_net"), dj.LoRA(layers=("zom",)))


@pytest.mark.parametrize(
    ("finish", "message"),
    [
        (lambda self, taps: taps[0][0], "returned a .*, expected a list of 1 pairs"),
        (lambda self, taps: taps * 2, "returned 2 of them, expected a list of 1 pairs"),
        (lambda self, taps: [(x[..., :2], s) for x, s in taps], r"tap 0 has shape \[1, 1, 8, 8, 2\] .*8?.*h, w, 6\]"),
        (lambda self, taps: [(x[0], s) for x, s in taps], r"tap 0 has shape \[1, 8, 8, 6\]"),
        (lambda self, taps: [(x, (*s, "depth")) for x, s in taps], r"the streams shared depth, expected \[2, batch"),
    ],
)
def test_taps_of_another_shape_are_told(own_net, monkeypatch, finish, message):
    model = small_model("own_net")
    monkeypatch.setattr(OwnNet, "finish", finish)
    with pytest.raises(ConfigError, match=f"backbone: OwnNet of 'test_plugins.py'.*{message}"):
        model(np.zeros((1, 32, 32, 3), np.uint8), Context(train=False))


def test_what_a_backbone_must_declare(registered):
    bare = dataclasses.make_dataclass("Bare", [], frozen=True)
    listed = dataclasses.make_dataclass(
        "Listed", [], namespace={"feature_channels": [6], "readouts": ("map",)}, frozen=True
    )
    stray = type("Stray", (OwnNet,), {"roles": Roles(order=("zoom",))})
    for name, config, backbone, message in (
        ("own/net", OwnConfig(), OwnNet, "a name is made of letters"),
        ("own", bare(), OwnNet, "Bare .*feature_channels: got None, expected a tuple"),
        ("own", listed(), OwnNet, r"feature_channels: got \[6\]"),
        ("own", OwnConfig, OwnNet, "expected an object of a frozen dataclass"),
        ("own", OwnConfig(), dict, "expected a subclass of ditask_jax.backbones.Backbone"),
        ("own", OwnConfig(), stray, "roles: 'proj' is not in their order"),
    ):
        with pytest.raises(ConfigError, match=message):
            dj.register_backbone(name, BackboneEntry(config), backbone)


def test_one_stage_needs_no_widths(own_net):
    assert small_model("own_net").recipe.widths == (18,)
    assert dj.create_model("swin_test", dj.create_tasks("depth"), 32, abstract=True).recipe.widths == (18, 36, 72, 144)
