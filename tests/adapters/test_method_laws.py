"""Laws of every method in the registry and of its variants, for one and for three tasks; none is listed by hand.

They run on a model of three blocks.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.adapters import detach, merge, method_names
from ditask_jax.nn import Context, flatten, linears, split_state
from tests.adapters.cases import LATER, by_method, largest_difference
from tests.adapters.micro import Micro, compiled, features, gradients, method_of, plain_model

# What a method's options change beyond numbers; the plain method comes first.
VARIANTS = {
    "ditask": ["domain=index init=upstream", "task_blocks=2 headroom=1.5", "shared_layers=", "task_layers="],
    "mtlora": ["mode=matrixv2 task_blocks=2 scale_trains=true", "mode=addition", "task_layers=proj,fc1"],
    "svf": ["task_layers=fc2 task_blocks=2"],
    "lora": ["scale_trains=true unfrozen="],
    "lora_xs": ["split_qkv=true"],
    "psoft": ["split_qkv=true task_layers=fc2 task_blocks=2", "shared_rank=1"],
    "svft": ["execution=factored split_qkv=true bandwidth=2", "bandwidth=0"],
    "ia3": ["shared_layers=qkv,proj task_layers=proj,fc1"],
    "faar": ["form=lora", "reductions=false task_layers=fc1 task_blocks=2"],
}
CASES = [(name, variant) for name in method_names() for variant in ("", *VARIANTS.get(name, ()))]
TASKS = {1: ("depth",), 3: ("semseg", "depth", "sal")}


def chosen(name: str, variant: str):
    return method_of(name, *(f"method.{text}" for text in variant.split()))


def check_only_declared_parameters_train(method, micro: Micro) -> None:
    """What trains is what the method names and the plan lists; every other weight is frozen, with its old value."""
    plain = flatten(split_state(plain_model(*micro.model.task_names)).trainable)
    trainable, frozen = flatten(micro.parts.trainable), flatten(micro.parts.frozen)
    declared = {
        f"{p.info.path}/adapter/{name}": shape for p in micro.plan.layers for name, shape in p.parameters.items()
    }
    kept = {path for path in plain if not path.startswith("backbone/") or method.trains(path)}
    assert set(trainable) == kept | set(declared)
    assert all(trainable[path].shape == shape for path, shape in declared.items())
    assert micro.plan.trainable_total == sum(value.size for value in trainable.values())
    for path, value in plain.items():
        where = trainable if path in kept else frozen
        # A kernel whose factors took its place is gone; `detach` gives it back.
        if path in where:
            np.testing.assert_array_equal(where[path], value, err_msg=path)
        else:
            assert path.endswith("/kernel"), path
            assert f"{path.removesuffix('kernel')}adapter/left" in frozen, path


def check_start(method, found, plain) -> None:
    difference = largest_difference(plain, found)
    assert (difference < 1e-5) == method.identity_at_start, difference


def check_gradients(micro: Micro) -> None:
    """Every declared parameter gets a gradient, and one task's parameters none from another task's loss."""
    first, *others = micro.model.task_names
    moved = micro.moved()
    norms = {path: float(np.abs(g).max()) for path, g in flatten(gradients(micro.parts, moved)[0]).items()}
    norms = {path: norm for path, norm in norms.items() if path.startswith("backbone/")}
    typical = sorted(norms.values())[len(norms) // 2] if norms else 0.0
    assert [path for path, norm in norms.items() if norm < 1e-6 * typical] == []
    if not others:
        return
    if couples_tasks(micro):
        return
    alone = flatten(gradients(micro.parts, moved, only=first)[0])
    for path, gradient in alone.items():
        if "/adapter/" in path and path.rsplit("_", 1)[-1] in others:
            assert not np.any(gradient), f"{path} feels the loss of {first}"


def check_stopping(micro: Micro) -> None:
    """A stop-gradient on what a loss does not read changes no gradient. It is one program more."""
    first, *others = micro.model.task_names
    moved = micro.moved()
    alone = gradients(micro.parts, moved, only=first)[0]
    assert largest_difference(alone, gradients(micro.parts, moved, only=first, stopped=tuple(others))[0]) < 1e-5


def couples_tasks(micro: Micro) -> bool:
    """Whether the shared stream is made from the tasks' own (MTLoRA's addition)."""
    return any("norm_scale_shared" in plan.parameters for plan in micro.plan.layers)


def check_merging(micro: Micro) -> None:
    moved = micro.moved()
    once = merge(micro.built(moved))
    twice = merge(once)
    forward, merged = gradients(micro.parts, moved)[1], features(once)
    assert largest_difference(forward, merged) < 2e-5
    assert largest_difference(merged, features(twice)) == 0
    assert all(layer.adapter is None or not layer.adapter.mergeable for layer in linears(once.backbone))
    half = Context(train=False, dtype=jnp.bfloat16)
    rounded = largest_difference(forward, compiled(micro.parts, moved, half))
    assert largest_difference(forward, features(once, half)) < 2 * rounded + 1e-2
    assert rounded < 0.1


def check_detaching(micro: Micro, plain) -> None:
    """Without its adapters, however they have moved, the model is what it was."""
    bare = detach(micro.built(micro.moved(only="/adapter/")))
    assert largest_difference(plain, features(bare)) < 1e-5
    assert all(layer.adapter is None for layer in linears(bare.backbone))


def check_another_task(method, micro: Micro) -> None:
    """It changes no random number and no starting value of the others, and their features by rounding only."""
    names = micro.model.task_names
    noisy = dataclasses.replace(method, dropout=0.3) if hasattr(method, "dropout") else method
    few, many = (Micro(noisy, *tasks, drop_path_rate=0.4) for tasks in (names, ("normals", *names)))
    more = flatten(many.parts.trainable)
    for path, value in flatten(few.parts.trainable).items():
        np.testing.assert_array_equal(value, more[path], err_msg=path)
    if couples_tasks(few):
        return  # the shared stream is a sum over all tasks by definition
    context = Context(train=True, key=jax.random.key(3))
    left, right = (compiled(m.parts, m.moved(), context) for m in (few, many))
    assert largest_difference(left, {name: right[name] for name in names}) < 1e-5


def check_execution_modes(method, micro: Micro) -> None:
    if not hasattr(method, "execution"):
        return
    results = []
    for way in ("materialised", "factored"):
        other = Micro(dataclasses.replace(method, execution=way), *micro.model.task_names)
        assert {plan.execution for plan in other.plan.layers} <= {way}
        results.append(gradients(other.parts, other.moved()))
    (left_gradient, left), (right_gradient, right) = results
    assert largest_difference(left, right) < 1e-5
    assert largest_difference(left_gradient, right_gradient) < 1e-4


def check_all(method, tasks: tuple[str, ...]) -> None:
    micro = Micro(method, *tasks)
    plain = features(plain_model(*tasks))
    check_only_declared_parameters_train(method, micro)
    # The program of the gradients gives the features too: one more would be compiled for the same numbers.
    check_start(method, gradients(micro.parts, micro.parts.trainable)[1], plain)
    check_gradients(micro)
    check_another_task(method, micro)
    check_detaching(micro, plain)
    if micro.plan.layers:
        check_merging(micro)
    check_execution_modes(method, micro)


every_case = pytest.mark.parametrize(("name", "variant"), CASES, ids=lambda text: text.replace(" ", ",") or "plain")


def starts():
    """Every case for every number of tasks, but those that `test_every_law` starts with.

    Flows compile so long that their variants are left with one number.
    """
    for count in TASKS:
        for name, variant in CASES:
            if count == 3 and not variant:
                continue
            later = name in LATER or (name == "ditask" and variant and "headroom" not in variant)
            marks = pytest.mark.slow if later else ()
            yield pytest.param(
                count, name, variant, marks=marks, id=f"{count}-{name}-{variant.replace(' ', ',') or 'plain'}"
            )


@pytest.mark.parametrize(("count", "name", "variant"), list(starts()))
def test_start_and_what_is_declared(count, name, variant):
    method, tasks = chosen(name, variant), TASKS[count]
    micro = Micro(method, *tasks)
    check_only_declared_parameters_train(method, micro)
    check_start(method, features(micro.model), features(plain_model(*tasks)))


@pytest.mark.parametrize("name", by_method(method_names()))
def test_every_law(name):
    check_all(chosen(name, ""), TASKS[3])


@pytest.mark.slow
@every_case
@pytest.mark.parametrize("count", TASKS)
def test_every_law_for_variants_and_other_counts(name, variant, count):
    if variant or count != 3:
        check_all(chosen(name, variant), TASKS[count])
    if count > 1:
        check_stopping(Micro(chosen(name, variant), *TASKS[count]))


def test_every_method_and_variant_is_checked():
    assert {name for name, _ in CASES} == set(method_names()) >= set(VARIANTS)
    starts = {method.identity_at_start for method in (chosen(*case) for case in CASES)}
    assert starts == {True, False}
