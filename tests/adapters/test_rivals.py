"""LoRA-XS, PSOFT, SVFT, VeRA, HRA, IA3 and FAAR: each against its formula in NumPy, and its counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from ditask_jax.adapters import make_plan, method_class, wrap
from ditask_jax.adapters.methods.faar import LENGTH_RATE
from ditask_jax.adapters.methods.svft import band_size
from ditask_jax.adapters.plan import Site
from ditask_jax.adapters.storage import load_adapter, save_adapter
from ditask_jax.config import load_config
from ditask_jax.errors import ConfigError, WeightsError
from ditask_jax.factors import factorize
from ditask_jax.model import create_model
from ditask_jax.nn import Context, LayerInfo, Linear, Scope, flatten, linears, prepare_adapters, split_state
from ditask_jax.training.experiment import describe_plan
from tests.adapters.cases import LATER, task_list
from tests.adapters.micro import method_of, plain_model

IN, OUT, RANK = 6, 10, 3
STREAMS = ("shared", "depth", "sal")


def moved_layer(method, role: str, parts: int = 1, streams: tuple[str, ...] = STREAMS[1:]):
    """A layer with task streams and an adapter whose numbers have all moved; its kernel, and its parameters."""
    behind = 0 if streams else 1
    info = LayerInfo(f"blocks/1/{role}", role, parts, 0, 1, behind == 0, False, 4)
    linear = Linear(IN, OUT, Scope(), info, use_bias=False)
    site = Site(info, (IN, OUT), streams, 1, 2, behind, False)
    plan, kernel = method.plan_layer(site), np.asarray(linear.kernel[...], np.float64)
    factors = factorize(kernel, plan.info.parts) if method.needs_factors() else None
    linear.adapter = method.attach(linear, plan, factors, 0)
    method.connect({info.path: linear}, {info.path: linear.adapter})
    rng, values = np.random.default_rng(0), {}
    for name in sorted(plan.parameters):
        variable = getattr(linear.adapter, name)
        values[name] = np.asarray(variable[...]) + 0.5 * rng.standard_normal(variable.shape)
        variable[...] = jnp.asarray(values[name], jnp.float32)
    return linear, kernel, values, plan


def outputs(linear: Linear, plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a layer makes of its input, and what its merged kernel does."""
    entering = plan.streams if plan.streams and plan.info.role != "proj" else STREAMS[:1]
    x = np.random.default_rng(1).standard_normal((len(entering), 2, 4, IN)).astype(np.float32)
    parts = split_state(linear)

    @jax.jit
    def run(trainable, frozen, stats, x):
        layer = parts.merge(trainable, frozen, stats)
        context = prepare_adapters(layer, Context(train=False))
        prepared = context.prepared[layer.info.path]
        shared = layer.adapter.merged_shared_kernel(layer, prepared)
        return layer(x, entering, context), layer.adapter.merged_kernel(layer, prepared), shared

    found, kernel, shared = run(parts.trainable, parts.frozen, parts.stats, x)
    return x, np.asarray(found), kernel if shared is None else (kernel, shared)


def check_streams(linear, plan, expected) -> None:
    """Every stream is multiplied by the kernel that the formula gives it, before and after merging."""
    x, found, kernels = outputs(linear, plan)
    streams = plan.streams or STREAMS[:1]
    for row, stream in enumerate(streams):
        own = x[row % len(x)] @ expected(stream)
        np.testing.assert_allclose(found[row], own, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(kernels[row] if plan.streams else kernels, expected(stream), rtol=1e-4, atol=1e-4)


def svd(kernel):
    """Full double precision, with the signs of the package."""
    (left,), (values,), (right,) = (np.asarray(f, np.float64) for f in factorize(kernel))
    return left, values, right


def test_lora_xs():
    method = method_class("lora_xs")(shared_rank=RANK, task_rank=2, scale=0.5)
    linear, kernel, values, plan = moved_layer(method, "fc1")
    left, sigma, right = svd(kernel)

    def expected(stream):
        (core,) = values[f"core_{stream}"]
        r = len(core)
        return kernel + 0.5 * left[:, :r] @ core @ np.diag(sigma[:r]) @ right[:r]

    check_streams(linear, plan, expected)


def test_psoft():
    """By the matrix exponential's neighbour: Cayley's rotation is orthogonal, and small skews turn as they do there."""
    linear, kernel, values, plan = moved_layer(method_class("psoft")(shared_rank=RANK, task_rank=2), "fc1")
    left, sigma, right = svd(kernel)

    def expected(stream):
        (inner,), (outer,), (skew,) = (values[f"{kind}_{stream}"] for kind in ("input", "output", "skew"))
        r, turning = len(inner), np.zeros((len(inner), len(inner)))
        turning[np.triu_indices(r, 1)] = skew
        turning -= turning.T
        rotation = np.linalg.inv(np.eye(r) + turning) @ (np.eye(r) - turning)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(r), atol=1e-12)
        small = np.linalg.inv(np.eye(r) + 1e-4 * turning) @ (np.eye(r) - 1e-4 * turning)
        np.testing.assert_allclose(small, scipy.linalg.expm(-2e-4 * turning), atol=1e-9)
        core = np.diag(inner) @ rotation @ np.diag(outer) - np.eye(r)
        return kernel + left[:, :r] @ core @ np.diag(sigma[:r]) @ right[:r]

    check_streams(linear, plan, expected)


@pytest.mark.parametrize("execution", ["materialised", "factored"])
def test_svft(execution):
    method = method_class("svft")(bandwidth=2, execution=execution)
    linear, kernel, values, plan = moved_layer(method, "fc1")
    left, sigma, right = svd(kernel)

    def expected(stream):
        (band,) = values[f"band_{stream}"]
        assert len(band) == band_size(IN, 2) == np.sum(np.abs(np.subtract.outer(range(IN), range(IN))) <= 2)
        matrix, rest = np.diag(sigma).astype(np.float64), list(band)
        for offset in (0, -1, 1, -2, 2):
            entries = [rest.pop(0) for _ in range(IN - abs(offset))]
            matrix += np.diag(entries, offset)
        return left @ matrix @ right

    check_streams(linear, plan, expected)


def test_vera():
    linear, kernel, values, plan = moved_layer(method_class("vera")(rank=RANK), "fc1")
    left, right = (np.asarray(getattr(linear.adapter, name)[...], np.float64) for name in ("left", "right"))
    assert np.abs(left).max() <= (6 / IN) ** 0.5
    assert np.abs(right).max() <= (6 / RANK) ** 0.5
    check_streams(
        linear, plan, lambda s: kernel + left @ np.diag(values[f"inner_{s}"]) @ right @ np.diag(values[f"outer_{s}"])
    )


def test_hra():
    linear, kernel, values, plan = moved_layer(method_class("hra")(shared_reflections=4, task_reflections=2), "fc1")

    def expected(stream):
        found = kernel
        for column in values[f"directions_{stream}"].T:
            unit = column / np.linalg.norm(column)
            found = found - 2 * np.outer(unit, unit @ found)
        np.testing.assert_allclose(np.linalg.svd(found)[1], np.linalg.svd(kernel)[1], rtol=1e-10)
        return found

    check_streams(linear, plan, expected)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_ia3(parts):
    """Inputs of the MLP's second layer; keys and values of a packed layer, of which queries are the first part."""
    method = method_class("ia3")()
    if parts == 1:
        linear, kernel, values, plan = moved_layer(method, "fc2")
        check_streams(linear, plan, lambda stream: values[f"factor_{stream}"][:, None] * kernel)
        return
    linear, kernel, values, plan = moved_layer(method, "qkv", parts, ())
    scaled = OUT if parts == 2 else OUT - OUT // parts
    assert {name: x.shape for name, x in values.items()} == {"factor_shared": (scaled,)}
    factor = np.concatenate([np.ones(OUT - scaled), values["factor_shared"]])
    check_streams(linear, plan, lambda stream: kernel * factor)


@pytest.mark.parametrize("form", ["dora", "lora"])
def test_faar(form):
    """Tasks add their change to the frozen product of the shared stream; ranks beyond the cap take no part."""
    method = method_class("faar")(rank=RANK, form=form, scale=2.0, dropout=0.0)
    linear, kernel, values, plan = moved_layer(method, "fc1")
    linear.adapter.cap_depth[...] = jnp.float32(2)
    lengths = np.linalg.norm(kernel, axis=0)

    def change(stream):
        kept = 2 if stream == "depth" else RANK
        product = 2.0 * values[f"a_{stream}"][:, :kept] @ values[f"b_{stream}"][:kept]
        if form == "lora":
            return product
        direction = kernel / lengths + product
        length = lengths * np.exp(LENGTH_RATE * (values[f"magnitude_{stream}"] - np.log(lengths)))
        return direction / np.linalg.norm(direction, axis=0) * length - kernel

    x, found, (own, shared) = outputs(linear, plan)
    np.testing.assert_array_equal(shared, kernel.astype(np.float32))
    for row, stream in enumerate(plan.streams):
        np.testing.assert_allclose(found[row], x[0] @ kernel + x[row] @ change(stream), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(own[row], change(stream), rtol=1e-4, atol=1e-4)


# --- counts

SWIN, PVT, VIT = "configs/pascal_swin_tiny.py", "configs/pascal_pvt_v2_b2.py", "configs/pascal_vit_base.py"
SMALL_VIT = "backbone.name=vit_small_patch16"
DECODER = 1_946_624
FILTERS = 4 * 4_880

# (method, options, shared adapters alone as its authors count them on Swin-T, PVT v2 b2, ViT-S).
SHARED_COUNTS = [
    ("lora_xs", "", 3_072, 5_120, 3_072),
    ("psoft", "", 3_120, 5_200, 3_120),
    ("svft", "bandwidth=0", 17_664, 20_800, 18_432),
    ("svft", "bandwidth=1", 52_896, 62_240, 55_200),
    ("vera", "rank=256", 39_744 + 48 * 256, 40_256 + 80 * 256, 41_472 + 48 * 256),
    ("hra", "shared_reflections=2", 2 * 30_912, 2 * 36_096, 2 * 32_256),
    ("ia3", "", 26_496, 27_776, 27_648),
]


@functools.cache
def plan_of(path: str, *overrides: str):
    return describe_plan(load_config(path, overrides))


@pytest.mark.parametrize(("name", "option", "swin", "pvt", "vit"), SHARED_COUNTS)
def test_counts_of_shared_adapters(name, option, swin, pvt, vit):
    """Q, k and v are one matrix, and no task has parameters of its own."""
    own = [f"method.{option}"] if option else []
    asked = (f"method.name={name}", "method.task_layers=", *own)
    plans = [plan_of(SWIN, *asked), plan_of(PVT, *asked), plan_of(VIT, SMALL_VIT, *asked)]
    assert [plan.groups["adapter shared"] for plan in plans] == [swin, pvt, vit]
    assert all("adapter task" not in plan.groups and not plan.upstream_extra for plan in plans)


# (method, per-task numbers on Swin-T, shared ones that no head reads).
TASK_COUNTS = {
    "lora_xs": (4 * 12 * 2**2, 3 * 8**2),
    "psoft": (4 * 12 * (6 + 8), 3 * (45 + 20)),
    "svft": (4 * (3 * 3 * 1440 - 2 * 12), 3 * (3 * 768 - 2)),
    "vera": (4 * (6 * 1440 + 12 * 256), 6 * 768 + 3 * 256),
    "hra": (4 * 2 * 6 * 1440, 8 * 6 * 768),
    "ia3": (4 * 4 * 1440, 4 * 768),
}


@pytest.mark.parametrize("name", TASK_COUNTS)
def test_counts_of_task_adapters(name):
    """The shared parameters behind the last split are named, not made."""
    plan, alone = plan_of(SWIN, f"method.name={name}"), plan_of(SWIN, f"method.name={name}", "method.task_layers=")
    task, dead = TASK_COUNTS[name]
    assert plan.groups["adapter task"] == task
    assert plan.upstream_extra == {"shared parameters, last block (unused)": dead}
    assert plan.groups["adapter shared"] == alone.groups["adapter shared"] - dead


def test_the_published_split_of_lora_xs():
    plan = plan_of(SWIN, "method.name=lora_xs", "method.unfrozen=")
    assert plan.upstream["trainable_backbone"] == 3_264


@pytest.mark.parametrize(
    ("options", "head", "count"),
    [
        ("rank=32", "tspd", 6_694_906),
        ("rank=64", "tspd", 11_296_762),
        ("rank=32 form=lora", "tspd", 6_619_258),
        ("rank=64 form=lora", "tspd", 11_221_114),
        ("rank=2", "tspd", 2_380_666),
        ("rank=2", "hrnet", 2_380_666 - FILTERS),
    ],
)
def test_counts_of_faar(options, head, count):
    """Decoders included; where the authors count parameters of the last layer that no task reads, they are named."""
    own = [f"method.{text}" for text in options.split()]
    plan = plan_of(SWIN, "method.name=faar", f"head.name={head}", *own)
    assert plan.upstream["trainable_total"] == count
    assert plan.trainable_decoder == DECODER + (FILTERS if head == "tspd" else 0)
    [dead] = plan.upstream_extra.values()
    rank, lengths = int(own[0].rpartition("=")[2]), 768 * ("lora" not in options)
    assert dead == rank * 5 * 768 + lengths


def test_ranks_by_stage_and_task_and_a_split_qkv():
    by_task = "method.task_rank={'semseg': 1, 'human_parts': 2, 'sal': (1,2,3,4), 'normals': 3}"
    options = "method.split_qkv=true", "method.shared_rank=1,2,3,4", by_task
    groups = plan_of(SWIN, "method.name=lora_xs", *options).groups
    # Six matrices a block: three of q, k, v; in the last block three of them have no shared core.
    assert groups["adapter shared"] == 6 * (2 * 1 + 2 * 4 + 6 * 9 + 2 * 16) - 3 * 16
    assert groups["adapter task"] == 3 * (4 * 1 + 4 * 4 + (1 + 4 + 9 + 16) + 4 * 9)
    wide = plan_of(SWIN, "method.name=psoft", "method.shared_rank=100000", "method.task_layers=").groups
    blocks = ((2, 96), (2, 192), (6, 384), (2, 768))
    assert wide["adapter shared"] == sum(4 * n * (c * (c - 1) // 2 + 2 * c) for n, c in blocks)


# --- what they share


def test_every_late_method_is_here():
    assert {*TASK_COUNTS, "faar"} == LATER


def test_vera_has_one_pair_of_matrices_which_adapter_files_leave_to_a_seed(tmp_path):
    """Stored once in the model, made again from the option; a file of other matrices is refused."""
    method = method_of("vera", "method.task_layers=fc2")

    def wrapped(method, seed=0):
        model = create_model("vit_test", task_list("semseg"), 32, widths=(4, 4, 4, 4))
        wrap(model, method, seed=seed)
        return model

    model, other = wrapped(method), wrapped(method, seed=7)
    frozen = flatten(split_state(model).frozen)
    assert len([path for path in frozen if path.endswith(("adapter/left", "adapter/right"))]) == 2
    held = {id(layer.adapter.left) for layer in linears(model.backbone) if layer.adapter is not None}
    assert len(held) == 1
    theirs = flatten(split_state(other).frozen)
    assert all(np.array_equal(value, theirs[path]) for path, value in frozen.items())
    save_adapter(tmp_path / "vera", model, groups="adapters")
    load_adapter(tmp_path / "vera", other)
    third = wrapped(method_of("vera", "method.task_layers=fc2", "method.projection_seed=3"))
    with pytest.raises(WeightsError, match="projection_seed: 0 in the file, 3 in the model"):
        load_adapter(tmp_path / "vera", third)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hra", {"shared_reflections": 3}, "method.shared_reflections: got 3, expected even numbers"),
        ("hra", {"task_reflections": {"depth": (2, 5)}}, "method.task_reflections: got .* expected even numbers"),
        ("psoft", {"task_rank": {"sal": 2}}, "method.task_rank: no entry for depth"),
        ("svft", {"bandwidth": -1}, "method.bandwidth: got -1, expected an integer from 0 up"),
        ("vera", {"inner_start": 0.0}, "method.inner_start: got 0.0, expected a number other than 0"),
        ("ia3", {"task_layers": ("qkv",)}, "method.task_layers: unknown name 'qkv'"),
        ("faar", {"unfrozen": ("reduction",)}, "method.unfrozen: 'reduction' has matrices beside its frozen weights"),
        ("faar", {"share": 1.5}, r"method.share: got 1.5, expected a number in \[0, 1\]"),
    ],
)
def test_options_that_cannot_be(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(plain_model("depth"), method_class(name)(**options))
