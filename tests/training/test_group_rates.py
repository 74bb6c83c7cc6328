"""Groups of parameters: what recipes leave open, how the optimiser treats groups and their parts, what is logged."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.adapters import SVF, Tuned, method_names, wrap
from ditask_jax.adapters.method_registry import _METHODS, SETTINGS, method_class
from ditask_jax.adapters.wrap import PUBLISHED, declared_by
from ditask_jax.config import base_config, from_json, load_config, to_json
from ditask_jax.config_sections import OptimizerSection
from ditask_jax.describe.summary import describe_text, optimizer_groups
from ditask_jax.errors import ConfigError
from ditask_jax.nn.state import Declared, flatten, split_state
from ditask_jax.options import options_of, plain
from ditask_jax.training.experiment import build_method, build_model, describe_plan
from ditask_jax.training.optim.group_rates import Movement, groups_of, recipe_words, schedules_of, settled
from ditask_jax.training.optim.optimizer import make_optimizer, treatment
from docs import build_options

PARAMS = {"block": {"theta_a": jnp.ones(2), "theta_b": jnp.ones(2)}, "norm": jnp.ones(3), "head": jnp.ones((2, 2))}
DECLARED = {
    "block": {"theta_a": Declared("thetas", "adapters"), "theta_b": Declared("thetas", "adapters")},
    "norm": Declared(False, "pretrained"),
    "head": Declared(True, "decoders"),
}


def _optimizer(**changes):
    config = base_config().optimizer
    config.update({"name": "sgd", "betas": (0.0, 0.999), "clip_norm": None, "weight_decay": 0.1} | changes)
    return config


# Recipes.


@pytest.mark.parametrize("name", ["pascal_swin_tiny", "pascal_pvt_v2_b2", "nyud_swin_tiny", "cityscapes_swin_tiny"])
def test_published_configurations_keep_one_rate_and_the_published_set(name):
    config = settled(load_config(f"configs/{name}.py"))
    assert config.recipe == "published"
    assert config.optimizer.rates is None
    assert config.method.unfrozen == PUBLISHED


def test_another_method_alone_gets_rates_of_its_own():
    found = {}
    for name in ("ditask", "svf", "lora", "full", "frozen"):
        config = settled(load_config("configs/base.py", [f"method.name={name}", "total_steps=9"]))
        found[name] = dict(config.optimizer.rates or {})
        assert config.method.get("unfrozen", ()) == ()
    assert found["ditask"] == {"adapters": 30.0, "pretrained": 0.03, "decoders": 1.0}
    assert found["svf"]["adapters"] == 10.0
    assert found["lora"]["adapters"] == 0.3
    assert found["full"]["pretrained"] < 0.1
    assert found["frozen"] == {}


def test_what_is_set_stays_and_what_is_recorded_stays():
    changes = ["optimizer.rates={'adapters': 7.0}", "method.unfrozen=norms", "total_steps=9"]
    config = load_config("configs/base.py", changes)
    assert settled(config) is config
    assert "not as measured" in " ".join(recipe_words(config))
    once = settled(load_config("configs/base.py", ["total_steps=9"]))
    again = from_json(to_json(once))
    assert to_json(settled(again)) == to_json(once)


def test_every_method_states_usable_factors_or_has_them_by_analogy():
    rule = options_of(OptimizerSection)["rates"].rule
    for name in method_names():
        for setting in SETTINGS:
            tuned = method_class(name).tuned_for(setting)
            rule.check(name, dict(tuned.rates) or {"adapters": 1.0})
            assert tuned.source
            assert set(tuned.unfrozen or ()) <= set(PUBLISHED)


def test_a_method_of_a_users_own_inherits_and_says_so(monkeypatch):
    monkeypatch.setattr("ditask_jax.adapters.method_registry._METHODS", dict(_METHODS))

    class Banded(SVF):
        name = "banded"

    class Stated(SVF):
        name = "stated"
        tuned: ClassVar = {"photographs": Tuned({"adapters": 5.0}, "found here")}

    assert Banded.tuned_for("photographs").rates == SVF.tuned_for("photographs").rates
    assert Banded.tuned_for("photographs").source == "by analogy with 'svf'"
    assert Stated.tuned_for("photographs").source == "found here"
    assert Stated.tuned_for("scenes").source == "by analogy with 'svf'"
    assert SVF.analogy()["scenes"].source == "by analogy with 'svf'"


def test_the_page_of_rates_is_what_the_methods_state():
    text = build_options.RATES_PAGE.read_text(encoding="utf-8")
    assert text == build_options.rates_page(text), "run 'python -m docs.build_options'"


# The optimiser.


def test_rates_decays_and_warmups_by_group_and_part():
    """Plain descent written out: `-rate * (gradient + decay * value)`, with each group's own ramp."""
    config = _optimizer(
        rates={"adapters": 30.0, "adapters:*/theta_b": 3.0, "pretrained": 0.1},
        decays={"decoders": 0.5},
        warmups={"adapters": 4},
    )
    ramp = lambda steps: lambda step: jnp.minimum(step / steps, 1.0)
    transform = make_optimizer(config, lambda step: 1.0, DECLARED, ramp)
    state, gradient = transform.init(PARAMS), jax.tree.map(lambda x: 2.0 * x, PARAMS)
    for step in range(6):
        updates, state = transform.update(gradient, state, PARAMS)
        warm = min(step / 4, 1.0)
        np.testing.assert_allclose(updates["block"]["theta_a"], -30.0 * warm * (2 + 0.1), rtol=1e-6)
        np.testing.assert_allclose(updates["block"]["theta_b"], -3.0 * warm * (2 + 0.1), rtol=1e-6)
        np.testing.assert_allclose(updates["norm"], -0.1 * 2, rtol=1e-6)
        np.testing.assert_allclose(updates["head"], -(2 + 0.5), rtol=1e-6)


def test_factors_of_one_change_neither_the_state_nor_an_update():
    """So that runs which name them go on from checkpoints of runs that do not."""
    gradient = jax.tree.map(jnp.sin, PARAMS)
    found = []
    for changes in ({}, {"rates": {"adapters": 1.0, "decoders": 1.0}}, {"decays": {"adapters": 0.1}}):
        transform = make_optimizer(_optimizer(name="adamw", **changes), lambda step: 0.01, DECLARED)
        state = transform.init(PARAMS)
        updates, after = transform.update(gradient, state, PARAMS)
        found.append((updates, [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(after)]))
    for updates, paths in found[1:]:
        assert paths == found[0][1]
        jax.tree.map(np.testing.assert_array_equal, updates, found[0][0])


def test_the_longest_pattern_wins_and_two_of_one_length_are_refused():
    config = _optimizer(rates={"adapters:*": 2.0, "adapters:*/theta_*": 3.0})
    assert treatment(Declared(False, "adapters"), config, "block/theta_a").rate == 3.0
    assert treatment(Declared(False, "adapters"), config, "block/gain").rate == 2.0
    assert treatment(Declared(False, "decoders"), config, "block/theta_a").rate == 1.0
    config = _optimizer(rates={"adapters:block/th?ta_a": 2.0, "adapters:bl?ck/theta_a": 2.0, "adapters:*": 1.0})
    with pytest.raises(ConfigError, match=r"rates: 'adapters:bl.*' and 'adapters:block.*' both fit 'block/theta_a'"):
        treatment(Declared(False, "adapters"), config, "block/theta_a")


@pytest.mark.parametrize("field", ["rates", "decays", "warmups"])
def test_a_pattern_that_fits_nothing_is_named(field):
    with pytest.raises(
        ConfigError, match=rf"optimizer.{field}: 'adapters:\*/gain' fits no parameter .* 'block/theta_a'"
    ):
        make_optimizer(_optimizer(**{field: {"adapters:*/gain": 1}}), lambda step: 1.0, DECLARED, lambda steps: None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.rates={'adapter': 3}", "unknown name 'adapter'. Did you mean 'adapters'"),
        ("optimizer.rates={'adapters': 0}", "expected factors above 0"),
        ("optimizer.rates={'adapters:': 3}", "a pattern behind the colon"),
        ("optimizer.decays={'adapters': -1}", "expected numbers from 0 up"),
        ("optimizer.warmups={'adapters': 1.5}", "expected whole numbers from 0 up"),
        ("recipe=publised", "Did you mean 'published'"),
        ("data.held_aside=1.0", "held_aside"),
    ],
)
def test_mistakes(override, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        load_config("configs/smoke.py", [override])


def test_a_warm_up_of_its_own_must_leave_steps():
    warmed = schedules_of(base_config().optimizer, 10, 100, 32)
    peak = 5e-4 * 32 / 512
    assert float(warmed(0)(1)) == pytest.approx(peak)
    assert float(warmed(50)(26)) == pytest.approx(peak / 2, rel=2e-2)
    with pytest.raises(ConfigError, match=r"optimizer\.warmups: 100 warm-up steps leave nothing of 100"):
        warmed(100)


# Groups in descriptions and logs.


@pytest.mark.parametrize("name", ["ditask", "bitfit"])
def test_groups_from_shapes_alone_are_those_of_the_wrapped_model(name):
    config = settled(load_config("configs/smoke.py", {"method.name": name}))
    method, plan = build_method(config), describe_plan(config)
    declared, shapes = declared_by(build_model(config, abstract=True), method, plan)
    model = build_model(config)
    wrap(model, method)
    parts = split_state(model)
    assert declared == parts.declared
    assert shapes == {path: value.shape for path, value in flatten(parts.trainable).items()}
    groups = groups_of(declared, shapes, config.optimizer)
    assert sum(group.size for group in groups) == plan.trainable_total
    assert sum(group.size for group in groups if group.name == "decoders") == plan.trainable_decoder


def test_describe_prints_every_group_and_its_parts():
    changes = {
        "optimizer.rates": {"adapters": 30.0, "adapters:*/theta_depth": 3.0},
        "optimizer.decays": {"decoders": 0.0},
    }
    config = load_config("configs/smoke.py", changes)
    rows = {row["name"]: row for row in optimizer_groups(config, describe_plan(config))}
    assert list(rows) == ["adapters", "adapters:*/theta_depth", "pretrained", "decoders"]
    peak = 0.1 * 8 / 512
    assert [row["peak_learning_rate"] / peak for row in rows.values()] == pytest.approx([30, 3, 1, 1])
    assert rows["decoders"]["decayed"] == 0 < rows["pretrained"]["decayed"] < rows["pretrained"]["size"]
    text = describe_text(config)
    for row in rows.values():
        assert f"{row['size']:,} numbers" in text
    assert "rates: as optimizer.rates sets them" in text


def test_movement_is_the_length_of_a_step_over_that_of_what_is_there():
    config = _optimizer(rates={"adapters": 30.0})
    movement = Movement(DECLARED, config, lambda steps: lambda step: 0.5)
    before = jax.tree.map(np.zeros_like, PARAMS) | {"head": np.full((2, 2), 3.0), "norm": np.zeros(3)}
    after = jax.tree.map(lambda x: x + 1.0, before) | {"norm": np.zeros(3)}
    found = movement.ratios(before, after)
    assert found == {
        "train/update_ratio/adapters": 1.0,
        "train/update_ratio/decoders": 0.25,
        "train/update_ratio/pretrained": 0.0,
    }
    assert movement.rates(7) == {"train/rate/adapters": 15.0, "train/rate/decoders": 0.5, "train/rate/pretrained": 0.5}


def test_options_of_methods_leave_what_trains_open():
    for name in method_names():
        cls = method_class(name)
        if "unfrozen" in options_of(cls):
            assert options_of(cls)["unfrozen"].default is None
            assert cls() == dataclasses.replace(cls(), unfrozen=cls.published)
            assert plain(cls().unfrozen) == cls.published
