"""Laws of methods under options that are drawn: cells, ranks and widths by stage and task, layers, blocks, tasks."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ditask_jax.adapters import make_plan, method_class, method_names
from ditask_jax.backbones import list_models
from ditask_jax.config import load_config
from ditask_jax.model import create_model
from ditask_jax.nn import flatten
from tests.adapters.cases import SIZE, largest_difference, task_list
from tests.adapters.micro import Micro, features, options_for, plain_model

NAMES = ("semseg", "depth", "normals", "sal")
STAGES = 4  # of the backbones of test size; the micro model takes the first two


@st.composite
def chosen(draw):
    """A method with options, and tasks."""
    tasks = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    layers = lambda: draw(st.lists(st.sampled_from(("qkv", "proj", "fc1", "fc2")), unique=True, max_size=4))
    by_stage = lambda least: draw(
        st.integers(least, 9) | st.lists(st.integers(least, 9), min_size=STAGES, max_size=STAGES).map(tuple)
    )
    by_task = lambda least: draw(st.booleans()) and {name: by_stage(least) for name in NAMES}
    method = draw(st.sampled_from(method_names()))
    options = {
        "shared_layers": tuple(layers()),
        # Attention is shared: only what stands behind it can belong to a task.
        "task_layers": tuple(name for name in layers() if name != "qkv"),
        "task_blocks": draw(st.integers(1, 3)),
        "mode": draw(st.sampled_from(("matrix", "matrixv2"))),
        "domain": draw(st.sampled_from(("value", "index"))),
        "headroom": draw(st.sampled_from((1.0, 1.25, 3.0))),
        "dropout": 0.0,
    }
    if options["domain"] == "index":
        options["headroom"] = 1.0  # an order has nothing above its end
    for field, least in (("cells", 2), ("rank", 1)):
        options[f"shared_{field}"] = by_stage(least)
        options[f"task_{field}"] = by_task(least) or by_stage(least)
    options["bottleneck"] = by_stage(1)
    options |= {"rank": options["shared_rank"], "layers": options["shared_layers"]}
    return {"method.name": method, **options_for(method, options)}, tuple(tasks)


def method_of(overrides):
    config = load_config("configs/smoke.py", overrides)
    return method_class(config.method.name).from_config(config.method)


@functools.cache
def abstract(backbone: str, tasks: tuple[str, ...]):
    return create_model(backbone, task_list(*tasks), SIZE, widths=(4, 4, 4, 4), abstract=True)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(choice=chosen(), backbone=st.sampled_from(list_models("*_test")))
def test_counts_of_plans_add_up_on_every_backbone(choice, backbone):
    overrides, tasks = choice
    method = method_of(overrides)
    plan = make_plan(abstract(backbone, tasks), method)
    adapters = sum(layer.trainable for layer in plan.layers)
    assert adapters == plan.groups.get("adapter shared", 0) + plan.groups.get("adapter task", 0)
    assert sum(layer.trainable_shared for layer in plan.layers) == plan.groups.get("adapter shared", 0)
    assert plan.trainable_backbone + plan.trainable_decoder == plan.trainable_total <= plan.total
    assert all(count > 0 for count in plan.upstream_extra.values())
    turned = make_plan(abstract(backbone, tasks[::-1]), method)
    assert (turned.groups, turned.upstream) == (plan.groups, plan.upstream)
    # Another task brings numbers of its own and takes none away from what is shared.
    more = make_plan(abstract(backbone, (*tasks, "edge")), method_of(with_edge(overrides)))
    for group, count in plan.groups.items():
        if group not in ("adapter task", "necks", "heads"):
            assert more.groups[group] == count
    assert more.trainable_decoder > plan.trainable_decoder


def with_edge(overrides):
    """The same options, with those of one more task where they are told task by task."""
    add = lambda value: value | {"edge": 3} if isinstance(value, dict) else value
    return {name: add(value) for name, value in overrides.items()}


@settings(max_examples=3, deadline=None, derandomize=True)
@given(choice=chosen())
def test_start_and_counts_of_real_adapters(choice):
    check_real_adapters(*choice)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True)
@given(choice=chosen())
def test_start_and_counts_of_more_real_adapters(choice):
    check_real_adapters(*choice)


def check_real_adapters(overrides, tasks):
    for name, value in overrides.items():
        if isinstance(value, tuple) and value and isinstance(value[0], int):
            overrides[name] = value[:2]
        if isinstance(value, dict):
            overrides[name] = {task: v[:2] if isinstance(v, tuple) else v for task, v in value.items()}
    method = method_of(overrides)
    micro = Micro(method, *tasks)
    trainable = flatten(micro.parts.trainable)
    assert micro.plan.trainable_total == sum(value.size for value in trainable.values())
    declared = {f"{p.info.path}/adapter/{name}": s for p in micro.plan.layers for name, s in p.parameters.items()}
    assert {path: value.shape for path, value in trainable.items() if "/adapter/" in path} == declared
    if method.identity_at_start:
        assert largest_difference(features(plain_model(*tasks)), features(micro.model)) < 1e-5
