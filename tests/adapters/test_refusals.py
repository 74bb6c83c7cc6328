"""What planning, wrapping and recording refuse and say, on plans and methods made by hand: nothing is compiled."""

import dataclasses
import types
from typing import Any

import numpy as np
import pytest
from flax import nnx

from ditask_jax.adapters import DiTASK, Frozen, Full, LayerPlan, Plan, wrap
from ditask_jax.adapters.method_registry import Method, check_entries, check_layers, method_class, method_names, words
from ditask_jax.adapters.plan import parameter_group
from ditask_jax.adapters.storage import Adapted, _chosen, method_from, method_from_record, method_options
from ditask_jax.adapters.wrap import _attach, _check_plan
from ditask_jax.errors import ConfigError, WeightsError
from ditask_jax.nn.linear import LayerInfo
from tests.adapters.micro import method_of, plain_model


def layer(path: str = "backbone/fc1", streams: tuple[str, ...] = (), **parameters: tuple[int, ...]) -> LayerPlan:
    return LayerPlan(LayerInfo(path, "fc1", 1, 0, 0, True, True, 16), (8, 32), streams, parameters, "factored")


# --- plans


def test_a_plan_without_adapters_in_words():
    plan = Plan("frozen", (), {"necks": 10, "norms": 0, "heads": 1234}, {}, 5678)
    assert str(plan).splitlines() == [
        "no adapters",
        "",
        "trainable: necks               10",
        "trainable: heads            1,234",
        "trainable backbone              0",
        "trainable total             1,244",
        "all parameters              5,678",
    ]
    assert plan.upstream == {"trainable_backbone": 0, "trainable_total": 1244}


def test_a_plan_with_adapters_in_words():
    layers = (
        layer(theta_shared=(7,)),
        layer("backbone/fc1b", ("shared", "sal"), theta_shared=(7,), theta_sal=(2, 500)),
    )
    plan = Plan("ditask", layers, {"adapter shared": 14, "adapter task": 1000}, {"linears": 6}, 5678)
    assert str(plan).splitlines() == [
        "path           in x out  parts  streams       execution  trainable",
        "backbone/fc1   8 x 32    1      as they come  factored   7        ",
        "backbone/fc1b  8 x 32    1      shared sal    factored   1,007    ",
        "",
        "trainable: adapter shared                 14",
        "trainable: adapter task                1,000",
        "trainable backbone                     1,014",
        "trainable total                        1,014",
        "all parameters                         5,678",
        "upstream also counts: linears              6",
        "upstream trainable_backbone            1,020",
        "upstream trainable_total               1,020",
    ]
    assert [(one.trainable, one.trainable_shared) for one in layers] == [(7, 7), (1007, 7)]
    body = plan.to_json()
    assert (body["method"], body["total"], body["upstream_extra"]) == ("ditask", 5678, {"linears": 6})
    assert body["layers"][1] == {
        "path": "backbone/fc1b",
        "role": "fc1",
        "shape": [8, 32],
        "parts": 1,
        "streams": ["shared", "sal"],
        "execution": "factored",
        "trainable": 1007,
    }


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("necks/0/kernel", "necks"),
        ("heads/sal/bias", "heads"),
        ("backbone/fc1/adapter/lora_a_sal", "adapter task"),
        ("backbone/norm/adapter/theta_shared", "adapter shared"),
        ("backbone/patch_embed/norm/bias", "patch_embed"),
        ("backbone/position_embedding", "positions"),
        ("backbone/class_token", "positions"),
        ("backbone/stages/0/norm1/bias", "norms"),
        ("backbone/stages/0/attn/spatial_reduction/kernel", "convolutions"),
        ("backbone/stages/0/mlp/depthwise/bias", "convolutions"),
        ("backbone/stages/0/merging/reduction/kernel", "reduction"),
        ("backbone/stages/0/mlp/fc2/kernel", "linears"),
    ],
)
def test_every_parameter_has_a_group(path, group):
    assert parameter_group(path) == group


def test_plans_that_are_none():
    for given, message in (
        ({"theta": 1}, "plan_layer returned a dict, expected a LayerPlan, or None where nothing is attached"),
        (
            layer(theta_shared=[7]),
            r"plan_layer gives 'theta_shared' the shape \[7\], expected a tuple of whole",
        ),
        (layer(theta_shared=(7, 2.0)), r"plan_layer gives 'theta_shared' the shape \(7, 2.0\), expected a tuple"),
    ):
        with pytest.raises(ConfigError, match=rf"method 'full' \(Full of 'subsets.py'\): {message}"):
            _check_plan(Full(), given)
    _check_plan(Full(), layer(theta_shared=(np.int64(7), 2), other_shared=()))


# --- wrapping


@dataclasses.dataclass(frozen=True)
class Elsewhere(Method):
    """It plans an adapter for layers that a backbone may not have."""

    roles: tuple[str, ...] = ("q_proj", "v_proj")

    @property
    def layer_roles(self):
        return self.roles

    def trains(self, path):
        return False


def test_a_method_for_other_layers_names_those_that_there_are():
    message = r"'' is for layers q_proj v_proj, of which .* has none: its blocks have qkv proj fc1 fc2; name these in"
    with pytest.raises(ConfigError, match=rf"config: method: {message}"):
        wrap(plain_model("sal"), Elsewhere())
    for roles in ((), ("q_proj", "fc2")):
        assert wrap(plain_model("sal"), Elsewhere(roles)).layers == ()


def test_a_layer_that_there_is_not():
    with pytest.raises(ConfigError, match=r"wrap: no layer 'backbone/fcl'\. Did you mean 'backbone/fc1'"):
        _attach({"backbone/fc1": None}, layer("backbone/fcl"), Full(), None, 0)


def test_a_model_is_wrapped_once():
    model = plain_model("sal")
    plan = wrap(model, method_of("svf"))
    with pytest.raises(ConfigError, match="wrap: the model has adapters already; create and load a fresh model"):
        wrap(model, Frozen())
    # A model without adapters may be frozen again: nothing is lost by that.
    assert (plan.method, model.adapted.method) == ("svf", "svf")


def test_streams_whose_spectrum_changes():
    model = plain_model("sal", "edge")
    # The shared layers have no parameters of their own here: the shared stream keeps the spectrum it has.
    wrap(model, method_of("svf", "method.shared_layers=", "method.task_layers=fc2"))
    slots = {one.info.path: one.adapter for one in _linears(model) if one.adapter is not None}
    first, last = slots.values()
    assert first.moving == {"sal": (1, "gain_sal"), "edge": (2, "gain_edge")}
    assert last.moving == {"sal": (0, "gain_sal"), "edge": (1, "gain_edge")}
    model = plain_model("sal")
    wrap(model, method_of("svf", "method.shared_layers=qkv", "method.task_layers="))
    assert {tuple(one.adapter.moving.items()) for one in _linears(model) if one.adapter is not None} == {
        (("shared", (0, "gain_shared")),)
    }


def _linears(model):
    from ditask_jax.nn import linears

    return linears(model.backbone)


DECAYS = {
    ("svf",): {"gain_*": "thetas"},
    ("ditask",): {"theta_*": "thetas"},
    ("lora",): {"a_*": True, "b_*": True},
    ("dora",): {"a_*": True, "b_*": True, "magnitude_*": False},
    ("mtlora", "method.mode=addition"): {"a_*": True, "b_*": True, "norm_scale_*": False, "norm_bias_*": False},
    ("adapter",): {"down_*": True, "up_*": True, "down_bias_*": False, "up_bias_*": False},
}


@pytest.mark.parametrize("asked", DECAYS, ids=lambda asked: asked[0])
def test_what_weight_decay_applies_to(asked):
    """Matrices decay, vectors do not, and thetas by their own switch: a norm or a length that decays goes to zero."""
    model = plain_model("sal", "edge")
    wrap(model, method_of(*asked))
    found = {}
    for one in _linears(model):
        for name, value in vars(one.adapter).items() if one.adapter is not None else ():
            if isinstance(value, nnx.Param):
                found.setdefault(f"{name.rpartition('_')[0]}_*", set()).add(value.get_metadata()["decay"])
    assert found == {name: {decay} for name, decay in DECAYS[asked].items()}


# --- options and records


@dataclasses.dataclass(frozen=True)
class Odd(Method):
    """An option that no file can hold."""

    value: Any = 1


class Undecorated(Method):
    """No dataclass: it has no options, as a file could record them."""


def test_options_that_no_file_can_hold():
    assert method_options(Odd((1, {"a": 2.5}))) == {"value": [1, {"a": 2.5}]}
    for value in (float("nan"), object(), {(1, 2): 3}):
        with pytest.raises(ConfigError, match=r"Odd of 'test_refusals.py'\): an option is no plain data"):
            method_options(Odd(value))
    with pytest.raises(ConfigError, match=r"Undecorated of .*: write @dataclasses.dataclass\(frozen=True\) above"):
        method_options(Undecorated())
    assert Undecorated().describe() == ""
    assert Odd(0.125).describe() == "value 0.125"


def test_methods_come_back_from_their_records():
    for method in (DiTASK(shared_cells=(4, 5, 6, 7), task_layers=("fc2",), headroom=1.5), Full()):
        record = method_options(method)
        assert method_from_record(method.name, record) == method
    assert method_from(Adapted("svf", '{"task_layers": ["fc1"], "dropout": 0.25}', "")) == method_class("svf")(
        task_layers=("fc1",), dropout=0.25
    )
    with pytest.raises(WeightsError, match=r"method 'full' has no option a b\. Known: $"):
        method_from_record("full", {"b": 1, "a": 2})
    with pytest.raises(ConfigError, match=r"config: method.name: unknown name 'ditsak'\. Did you mean 'ditask'"):
        method_from_record("ditsak", {})
    assert method_names() == sorted(method_names())


def test_groups_of_an_adapter_file():
    known = ["adapter shared", "adapter task", "heads"]
    assert _chosen("heads", known) == ["heads"]
    assert _chosen(["heads", "adapters", "heads"], known) == ["heads", "adapter shared", "adapter task"]
    assert _chosen(["adapters", "heads"], known[1:]) == ["adapter task", "heads"]
    with pytest.raises(WeightsError, match=r"adapter: groups: nothing of that trains here\. Known: heads"):
        _chosen("adapters", ["heads"])
    with pytest.raises(WeightsError, match=r"adapter: groups: unknown name 'head'\. Did you mean 'heads'"):
        _chosen("head", known)


def test_a_method_must_say_what_it_trains_and_attaches():
    own = Odd()
    with pytest.raises(TypeError, match="method '' does not say what trains"):
        own.trains("backbone/fc1/bias")
    with pytest.raises(TypeError, match="method '' attaches no adapters"):
        own.attach(None, layer(), None, 0)
    site = types.SimpleNamespace()
    assert (own.plan_layer(site), own.upstream_extra([site]), own.layer_roles) == (None, {}, ())
    assert own.identity_at_start is True
    assert own.needs_factors() is False
    assert not Odd.from_config(None).needs_factors()


def test_ditask_in_words():
    method = DiTASK(shared_cells=(4, 5, 6, 7), task_cells={"sal": 3, "edge": (1, 2, 3, 4)}, headroom=1.25)
    assert method.describe() == (
        "singular values moved by diffeomorphisms: 4/5/6/7 cells shared, sal 3, edge 1/2/3/4 per task, domain `value`, "
        "headroom 1.25"
    )
    assert [method.cells("theta_shared", 2), method.cells("theta_sal", 2), method.cells("theta_edge", 2)] == [6, 3, 3]
    assert (DiTASK(init="identity").identity_at_start, DiTASK(init="upstream").identity_at_start) == (True, False)


def test_entries_by_stage_and_task():
    check = lambda value, stages=4: check_entries("it", value, ["sal", "edge"], stages)
    check({"sal": 1, "edge": (1, 2, 3, 4), "more": (1,)})
    check((1, 2), None)
    check(3)
    for value, message in (
        ({"sal": 1}, "it: no entry for edge; give every task a value"),
        ({"sal": 1, "edge": (1, 2)}, r"it: got 2 values, expected one, or one per stage \(4\)"),
        ([1, 2, 3, 4, 5], r"it: got 5 values, expected one, or one per stage \(4\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            check(value)
    # Queries, keys and values are shared: a task's stream starts behind the attention.
    check_layers("shared_layers", ["qkv", "fc1"])
    with pytest.raises(ConfigError, match=r"config: method.task_layers: unknown name 'qkv'"):
        check_layers("task_layers", ["fc1", "qkv"], "task")
    with pytest.raises(ConfigError, match=r"config: method.shared_layers: unknown name 'fc3'\. Did you mean"):
        check_layers("shared_layers", ["fc3"])
    assert words({"sal": (1, 2), "edge": 0.5}) == "sal 1/2, edge 0.5"
