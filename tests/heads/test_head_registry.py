"""Heads by name: what is registered, which head a task gets, what is refused, and what files say of heads."""

import dataclasses
import json
import types
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import ditask_jax as dj
from ditask_jax.adapters.storage import DESCRIPTION, _hash, load_adapter, save_adapter
from ditask_jax.config import from_json, load_config, to_json, validate
from ditask_jax.errors import ConfigError, WeightsError
from ditask_jax.heads import Head, HeadOptions, NeckOptions, heads_of, register_head
from ditask_jax.heads.head_registry import HEADS
from ditask_jax.model import create_model
from ditask_jax.nn import Context
from ditask_jax.nn.linear import Dense
from ditask_jax.tasks import task_registry
from ditask_jax.tasks.classification import Classification
from ditask_jax.tasks.task_registry import add_task
from ditask_jax.training.experiment import build_model, experiment_from
from ditask_jax.training.run_folder import RunDir
from tests.training.small import NAME, OPTIONS, two_stages

MAP, VECTOR = SimpleNamespace(name="depth", num_outputs=1), SimpleNamespace(name="far", num_outputs=2, is_map=False)
FAR = Classification(name="far", num_outputs=2, class_names=("near", "far"))


@dataclasses.dataclass(frozen=True)
class PeakOptions(HeadOptions):
    """What the head scales by."""

    factor: float = 2.0


class Peak(Head):
    """Logits of the largest features."""

    is_map = False
    options = PeakOptions

    def __init__(self, channels, outputs, scope, options):
        self.factor = options.factor
        self.classify = Dense(channels[0], outputs, scope / "classify")

    def __call__(self, maps, context):
        return self.finish(self.classify(maps[0].max((1, 2)).astype(jnp.float32)) * self.factor)

    def finish(self, logits):
        return logits


@pytest.fixture
def peak(monkeypatch):
    monkeypatch.setitem(HEADS, "peak", Peak)
    monkeypatch.setattr(task_registry, "_OTHERS", dict(task_registry._OTHERS))
    monkeypatch.setattr(task_registry, "DATASETS", dict(task_registry.DATASETS))
    with two_stages():
        yield


def test_every_task_gets_a_head_that_serves_it():
    assert heads_of([MAP], "hrnet") == {"depth": "hrnet"}
    assert heads_of([MAP, VECTOR], "hrnet") == {"depth": "hrnet", "far": "linear"}
    # One name for both kinds.
    assert heads_of([MAP, VECTOR], "linear") == {"depth": "linear", "far": "linear"}
    assert heads_of([VECTOR, MAP], {"far": "linear"}) == {"far": "linear", "depth": "hrnet"}
    assert list(heads_of([VECTOR, MAP], {})) == ["far", "depth"]
    # The default name serves nobody, but nobody is left that needs it.
    assert heads_of([VECTOR], "hrnet", {"far": "linear"}) == {"far": "linear"}


@pytest.mark.parametrize(
    ("tasks", "arguments", "message"),
    [
        ([VECTOR], ("hrnet",), r"head\.name: 'hrnet' gives a map, but 'far' needs one vector per image; use linear"),
        (
            [MAP],
            ("peak",),
            r"head\.name: 'peak' gives one vector per image, but 'depth' needs a map; use hrnet or linear",
        ),
        ([MAP], ("hrnt",), r"head\.name: unknown name 'hrnt'\. Did you mean 'hrnet'"),
        ([MAP, VECTOR], ("hrnet", {"far": "hrnet"}), r"head\.per_task: 'hrnet' gives a map, but 'far' needs"),
        ([MAP, VECTOR], ({"depht": "hrnet"},), r"head\.per_task: task: unknown name 'depht'\. Did you mean 'depth'"),
        ([MAP, VECTOR], ({"depth": "hrnt"},), r"head\.per_task: unknown name 'hrnt'\. Did you mean 'hrnet'"),
    ],
)
def test_heads_that_do_not_fit_are_refused(peak, tasks, arguments, message):
    with pytest.raises(ConfigError, match=f"^config: {message}"):
        heads_of(tasks, *arguments)


def test_what_a_head_must_declare():
    class Bare(Head):
        pass

    named = dataclasses.make_dataclass("Named", [("per_task", int, 1)], bases=(HeadOptions,), frozen=True)
    without = dataclasses.make_dataclass("Without", [("size", int)], bases=(HeadOptions,), frozen=True)
    plain = type("Plain", (HeadOptions,), {})
    of = lambda **fields: types.new_class("Own", (Peak,), exec_body=lambda space: space.update(fields))
    for name, head, message in (
        ("My head", Peak, "a name is made of small letters"),
        ("own", dict, "expected a subclass of ditask_jax.heads.Head"),
        ("own", Bare, "does not define __init__"),
        ("own", of(is_map=1), "is_map: got 1, expected True or False"),
        ("own", of(sees_others=None), "sees_others: got None, expected True or False"),
        ("own", of(options=dict), "options: got <class 'dict'>, expected a dataclass"),
        ("own", of(options=plain), "expected a dataclass, a subclass of HeadOptions"),
        ("own", of(options=without), "'size' has no default"),
        ("own", of(options=named), "no option is called 'per_task'"),
        ("own", of(has_neck=True, options=NeckOptions), "has_neck is for heads that make maps"),
        ("own", of(has_neck=True, is_map=True), "whose options are a subclass of NeckOptions"),
        ("own", of(other_kind=dict), "expected a subclass of ditask_jax.heads.Head"),
        ("own", of(other_kind=Peak), "other_kind: .* has other options, or makes the same kind of output"),
        ("linear", Peak, "'linear' is registered already"),
    ):
        with pytest.raises(ConfigError, match=f"config: head.name: '{name}': .*{message}|{message}"):
            register_head(name, head)
    assert set(HEADS) == {"hrnet", "linear", "dpt", "tspd"}


def test_a_class_made_anew_takes_its_own_place(peak):
    register_head("peak", type("Peak", (Peak,), {"__module__": Peak.__module__, "__qualname__": Peak.__qualname__}))
    assert HEADS["peak"] is not Peak


@pytest.mark.parametrize(
    ("finish", "message"),
    [
        (lambda self, x: x[:, :1], r"returned float32 \[2, 1\], expected logits, float32 \[2, 2\]"),
        (lambda self, x: x[:, None, None], r"returned float32 \[2, 1, 1, 2\]"),
        (lambda self, x: x.astype(jnp.bfloat16), r"returned bfloat16 \[2, 2\]"),
        (lambda self, x: [x], "returned a list"),
    ],
)
def test_logits_of_another_shape_are_told(peak, monkeypatch, finish, message):
    model = create_model(NAME, [VECTOR], 16, head="peak")
    monkeypatch.setattr(Peak, "finish", finish)
    with pytest.raises(ConfigError, match=f"head of 'far': Peak of 'test_head_registry.py'.*{message}"):
        model(np.zeros((2, 16, 16, 3), np.uint8), Context(train=False))


# --- configurations


def test_heads_by_task_in_a_configuration(peak):
    text = "head.per_task={'far': 'peak'}"
    config = load_config("configs/smoke.py", [*OPTIONS, "tasks=depth+sal", text, "total_steps=1"])
    assert dict(config.head.per_task) == {"far": "peak"}
    assert json.loads(to_json(config))["head"]["per_task"] == {"far": "peak"}
    with pytest.raises(ConfigError, match=r"head\.per_task: task: unknown name 'far'"):
        build_model(config, abstract=True)
    config = load_config("configs/smoke.py", [*OPTIONS, "tasks=depth+sal", "head.per_task={'sal': 'hrnet'}"])
    assert dict(build_model(config, abstract=True).recipe.heads) == {"depth": "hrnet", "sal": "hrnet"}
    for value in ("linear", "{}", "3", "{'far': 3}"):
        with pytest.raises(ConfigError, match=r"config: head\.per_task: got .*, expected heads by task"):
            load_config("configs/smoke.py", [f"head.per_task={value}"])


def test_a_run_from_before_heads_by_task(tmp_path):
    config = load_config("configs/smoke.py", OPTIONS)
    with config.unlocked():
        del config.head["per_task"]
    (tmp_path / "config.json").write_text(to_json(config))
    found = RunDir(tmp_path).load_config()
    validate(found)
    assert found.head.per_task is None


def test_a_model_by_hand_says_its_heads(peak):
    """The configuration that a run of it records builds the same heads again, with their options."""
    add_task(FAR, ["scenes"])
    tasks = dj.create_tasks("depth+far", dataset="scenes")
    config = load_config("configs/smoke.py", [*OPTIONS, "image_size=16", "total_steps=1"])
    for head, per_task in (("hrnet", None), ({"far": "peak"}, {"depth": "hrnet", "far": "peak"})):
        options = {"factor": 3.0} if per_task else {}
        model = create_model(NAME, tasks, 16, head, widths=(3, 2), head_options=options)
        dj.wrap(model, dj.BitFit(), examples=config.batch_size)
        told = experiment_from(model, tasks, config).config
        assert told.head.to_dict() == {"name": "hrnet", "per_task": per_task, "widths": (3, 2), **options}
        again = build_model(from_json(to_json(told)), abstract=True).recipe
        assert (again.heads, again.head_options, again.widths) == (model.recipe.heads, tuple(options.items()), (3, 2))


# --- files


def mixed(**options):
    model = create_model(NAME, [MAP, VECTOR], 16, widths=(2, 2), **options)
    dj.wrap(model, dj.BitFit())
    return model


def test_an_adapter_says_which_heads_it_has(peak, tmp_path):
    model = mixed(head={"far": "peak"}, head_options={"factor": 3.0})
    assert model.heads["far"].factor == 3.0
    save_adapter(tmp_path / "it", model)
    facts = json.loads((tmp_path / "it" / DESCRIPTION).read_text())["model"]
    assert facts["head"] == {"depth": "hrnet", "far": "peak"}
    assert facts["head_options"] == {"factor": 3.0}
    load_adapter(tmp_path / "it", mixed(head={"far": "peak"}, head_options={"factor": 3.0}))
    with pytest.raises(WeightsError, match=r"head: .*'far': 'peak'.* in the file, .*'far': 'linear'.* in the model"):
        load_adapter(tmp_path / "it", mixed())
    with pytest.raises(WeightsError, match=r"head_options: \{'factor': 3.0\} in the file, \{'factor': 4.0\} in the"):
        load_adapter(tmp_path / "it", mixed(head={"far": "peak"}, head_options={"factor": 4.0}))


def test_an_adapter_of_0_1_is_read(peak, tmp_path):
    """Its description names one head for all tasks, and no options."""
    model = create_model(NAME, [MAP], 16, widths=(2, 2))
    dj.wrap(model, dj.BitFit())
    path = save_adapter(tmp_path / "it", model) / DESCRIPTION
    body = json.loads(path.read_text())
    assert body["model"]["head"] == "hrnet"
    del body["model"]["head_options"], body["sha256"]
    path.write_text(json.dumps(body | {"sha256": _hash(body)}))
    load_adapter(tmp_path / "it", model)
    predictor = dj.Predictor.from_adapter(tmp_path / "it", dataset="scenes")
    assert predictor([np.zeros((16, 16, 3), np.uint8)])[0]["depth"].shape == (16, 16)
