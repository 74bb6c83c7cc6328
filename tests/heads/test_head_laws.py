"""Laws of every registered head, by itself and in models: heads x backbones x tasks."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.adapters import SVF, BitFit, MTLoRA, make_plan, wrap
from ditask_jax.adapters.merging import merge
from ditask_jax.errors import ConfigError
from ditask_jax.heads import HEADS, build_options, head_class
from ditask_jax.model import create_model
from ditask_jax.nn import Context, Scope, flatten, split_state
from ditask_jax.options import options_of
from ditask_jax.prediction.predictor import for_tasks
from tests.training.small import NAME, two_stages

OUTPUTS = 5
# Sides of the maps of a backbone, odd and oblong ones among them, down to a single position.
SIDES = {"one": [(7, 5)], "odd": [(15, 13), (8, 7), (4, 4)], "oblong": [(4, 12), (2, 6), (1, 3), (1, 3)]}
# An image size of every test backbone, as oblong as it may be.
BACKBONES = {NAME: (16, 32), "vit_test": (64, 96), "pvt_test": (64, 96), "pvt_v2_test": (64, 32)}
MAPS, VECTORS = ("semseg", "depth", "sal"), ("classification", "count", "grade")
TASKS = {
    "one map": MAPS[:1],
    "three maps": MAPS,
    "one vector": VECTORS[:1],
    "three vectors": VECTORS,
    "both kinds": ("semseg", "classification", "depth"),
}


# Every head by each kind of output that it makes.
KINDS = [(n, kind) for n in HEADS for kind in (True, False) if head_class(n, is_map=kind).is_map == kind]


@pytest.fixture(autouse=True, scope="module")
def small_swin():
    with two_stages():
        yield


# --- a head by itself


def built(name: str, sides, is_map: bool | None = None):
    """A head of a name, and features of two images that it takes."""
    narrow = {"widths": (4,) * len(sides), "features": 5, "reassembled": (4,) * len(sides)}
    cls, options = head_class(name, is_map=is_map), build_options(name, narrow)
    channels = tuple(3 + 2 * stage for stage in range(len(sides)))
    sides, channels = (sides, channels) if cls.is_map else (sides[-1:], channels[-1:])
    rng = np.random.default_rng(0)
    maps = [
        rng.standard_normal((2, *side, width)).astype(np.float32) for side, width in zip(sides, channels, strict=True)
    ]
    return cls(channels, OUTPUTS, Scope(path="heads/it"), options), maps


def check_head(name: str, sides, is_map: bool | None = None) -> None:
    """Shape and type of logits, whatever comes; examples by themselves; every parameter is used."""
    head, maps = built(name, sides, is_map)
    parts = split_state(head)

    @functools.partial(jax.jit, static_argnums=2)
    def logits(values, maps, dtype=jnp.float32):
        return parts.merge(values, parts.frozen, parts.stats)(maps, Context(train=False, dtype=dtype))

    found = logits(parts.trainable, maps)
    assert found.dtype == jnp.float32
    assert found.shape[0] == 2
    assert found.shape[-1] == OUTPUTS
    assert found.ndim == (4 if head.is_map else 2)
    assert np.isfinite(found).all()
    alone = logits(parts.trainable, [x[1:] for x in maps])
    np.testing.assert_allclose(alone, found[1:], atol=1e-5)
    narrow = jax.eval_shape(lambda v, m: logits(v, m, jnp.bfloat16), parts.trainable, _as(maps, jnp.bfloat16))
    assert (narrow.dtype, narrow.shape) == (jnp.float32, found.shape)
    weights = np.random.default_rng(1).standard_normal(found.shape)
    gradients = jax.jit(jax.grad(lambda v, m: jnp.vdot(logits(v, m), weights), argnums=(0, 1)))(parts.trainable, maps)
    unused = [path for path, gradient in flatten(gradients[0]).items() if not np.any(gradient)]
    # What was a single row has no high frequencies, however it is enlarged: nothing for a filter of edges.
    flat = [f"filters/{branch}/edge_" for branch, side in enumerate(sides) if 1 in side]
    assert [path for path in unused if not path.startswith(tuple(flat))] == []
    assert all(np.any(gradient) for gradient in gradients[1])


def _as(maps, dtype):
    return [jax.ShapeDtypeStruct(x.shape, dtype) for x in maps]


def _cases():
    for name, is_map in KINDS:
        for title, sides in SIDES.items():
            # Dozens of convolutions to compile; one tap has all its kinds but those that resize.
            later = name == "dpt" or (name == "linear" and is_map)
            marks = [pytest.mark.slow] if later and title != "one" else []
            yield pytest.param(name, is_map, sides, marks=marks, id=f"{name}-{'map' if is_map else 'vector'}-{title}")


@pytest.mark.parametrize(("name", "is_map", "sides"), list(_cases()))
def test_a_head(name, is_map, sides):
    check_head(name, sides, is_map)


def test_counts_of_the_heads_of_a_plain_vit():
    """Four taps of DINOv2-S: what every layer of a decoder holds, added up by hand."""
    of = lambda head, **options: create_model(
        "vit_small_patch14_dinov2", task_list(["semseg"]), 112, head=head, abstract=True, head_options=options
    )
    count = lambda model: make_plan(model, BitFit()).groups["heads"]
    assert count(of("linear")) == 2 * 4 * 384 + (4 * 384 + 1) * OUTPUTS
    assert not of("linear").necks
    f, widths = 64, (96, 192, 384, 768)
    resize = 96 * 16 * 96 + 96, 192 * 4 * 192 + 192, 0, 9 * 768 * 768 + 768
    reassembled = sum(384 * w + w + r + 9 * w * f + f for w, r in zip(widths, resize, strict=True))
    fused = 7 * 2 * (9 * f * f + f) + 4 * (f * f + f)
    assert count(of("dpt", features=f)) == reassembled + fused + 9 * f * f + f + (f + 1) * OUTPUTS
    with pytest.raises(
        ConfigError, match=r"head\.reassembled: got 2 numbers of channels, expected one per stage \(4\)"
    ):
        of("dpt", reassembled=(4, 4))


def test_sizes_of_dpt():
    """Levels of 4, 2, 1 and 1/2 times the size of the taps, and logits of eight times it."""
    head, maps = built("dpt", [(4, 6)] * 4)
    levels = jax.eval_shape(
        lambda x: [r(m, Context(train=False)) for r, m in zip(head.reassemble, x, strict=True)], maps
    )
    assert [level.shape[1:3] for level in levels] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert jax.eval_shape(lambda x: head(x, Context(train=False)), maps).shape == (2, 32, 48, OUTPUTS)


def test_the_linear_head_of_maps_is_one_product_of_normalised_features():
    head, maps = built("linear", [(3, 5)] * 2, is_map=True)
    joined = np.concatenate(maps, axis=-1).astype(np.float64)
    got = head(maps, Context(train=True))
    spread = np.sqrt(joined.var((0, 1, 2)) + 1e-5)
    expected = (joined - joined.mean((0, 1, 2))) / spread @ np.asarray(head.classify.kernel[...], np.float64)
    np.testing.assert_allclose(got, expected + np.asarray(head.classify.bias[...]), atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_options_are_described_and_checked(name):
    options = build_options(name, {})
    for option in options_of(type(options)).values():
        assert option.help.endswith(".")
        assert option.expected
        with pytest.raises(ConfigError, match=f"config: head.{option.name}: got"):
            build_options(name, {option.name: object()})
    assert hash(options) == hash(build_options(name, {}))


# --- models


def task_list(names):
    return [SimpleNamespace(name=n, num_outputs=k, is_map=n in MAPS) for k, n in enumerate(names, OUTPUTS)]


def model_of(backbone, names, **options):
    widths = None if backbone != NAME else (4, 4)
    return create_model(backbone, task_list(names), BACKBONES[backbone], widths=widths or (4,) * 4, **options)


def expected_shapes(names, batch, size):
    return {t.name: (batch, *size, t.num_outputs) if t.is_map else (batch, t.num_outputs) for t in task_list(names)}


@pytest.mark.parametrize("names", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_of_a_model(backbone, names):
    """From shapes alone: any batch, types, what is read of the backbone, and paths of parameters."""
    heads = {name: "hrnet" if name in MAPS else "linear" for name in names}
    model, size = model_of(backbone, names, head=heads, abstract=True), BACKBONES[backbone]
    assert dict(model.recipe.heads) == heads
    kinds = {name in MAPS for name in names}
    readouts = model.backbone.config.readouts
    token = "token" in readouts
    wanted = {(True,): "map", (False,): "token" if token else "last", (False, True): "map+token" if token else "map"}
    assert model.backbone.readout == wanted[tuple(sorted(kinds))]
    assert set(model.necks) == {name for name in names if name in MAPS}
    parts = split_state(model)
    for batch, dtype in ((1, jnp.float32), (3, jnp.bfloat16)):
        images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8)
        run = lambda *values, dtype=dtype: parts.merge(*values[:3])(values[3], Context(train=False, dtype=dtype))
        found = jax.eval_shape(run, parts.trainable, parts.frozen, parts.stats, images)
        assert {name: x.shape for name, x in found.items()} == expected_shapes(names, batch, size)
        assert {x.dtype for x in found.values()} == {jnp.dtype("float32")}
    parameters = flatten(parts.trainable)
    assert {p.split("/")[1] for p in parameters if p.startswith("heads/")} == set(names)


def gradients_of(parts, images, only=""):
    """Gradients of the weighted logits of all tasks, or of one."""

    def loss(trainable):
        logits = parts.merge(trainable, parts.frozen, parts.stats)(images, Context(train=False))
        weights = {n: np.random.default_rng(len(n)).standard_normal(x.shape) for n, x in logits.items()}
        return sum(jnp.vdot(x, weights[n]) for n, x in logits.items() if only in ("", n))

    return flatten(jax.jit(jax.grad(loss))(parts.trainable))


def images_for(backbone, batch=2):
    return np.random.default_rng(0).integers(0, 256, (batch, *BACKBONES[backbone], 3), np.uint8)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_streams_are_split_off_where_they_are_read(backbone):
    """A head that makes vectors reads the last stage alone: in others its task has no parameters."""
    plan = make_plan(model_of(backbone, TASKS["both kinds"], abstract=True), SVF())
    stages = lambda task: {p.info.stage for p in plan.layers if f"gain_{task}" in p.parameters}
    everywhere = {p.info.stage for p in plan.layers}
    assert (stages("semseg"), stages("depth")) == (everywhere, everywhere)
    assert stages("classification") == {max(everywhere)}


@pytest.mark.parametrize("backbone", [NAME, pytest.param("vit_test", marks=pytest.mark.slow)])
def test_gradients_reach_every_parameter(backbone):
    """Of a model with both kinds of heads, adapters of all streams included."""
    model = model_of(backbone, TASKS["both kinds"])
    wrap(model, SVF(dropout=0.0))
    found = gradients_of(split_state(model), images_for(backbone))
    assert any("gain_classification" in path for path in found)
    assert [path for path, gradient in found.items() if not np.any(gradient)] == []


def test_a_task_s_loss_moves_its_own_head_alone():
    model = model_of(NAME, TASKS["both kinds"])
    wrap(model, BitFit())
    parts = split_state(model)
    for only in ("classification", "depth"):
        found = gradients_of(parts, images_for(NAME), only)
        moved = {path.split("/")[1] for path, g in found.items() if path.startswith(("heads/", "necks/")) and np.any(g)}
        assert moved == {only}


@pytest.mark.parametrize(
    ("backbone", "method"),
    [
        pytest.param(NAME, SVF(), marks=pytest.mark.slow),
        pytest.param("vit_test", SVF(), marks=pytest.mark.slow),
        (NAME, MTLoRA()),
    ],
)
def test_merged_and_for_some_tasks(backbone, method):
    """Merged kernels, and a model for one task of either kind, compute what the whole model does."""
    model = model_of(backbone, TASKS["both kinds"])
    wrap(model, method)
    parts, images = split_state(model), images_for(backbone)
    rng = np.random.default_rng(3)
    moved = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32), parts.trainable)
    run = lambda network: jax.jit(lambda x: network(x, Context(train=False)))(images)
    expected = run(parts.merge(moved, parts.frozen, parts.stats))
    merged = merge(model, (moved, parts.stats))
    for names in (TASKS["both kinds"], ("classification",), ("semseg", "depth")):
        for name, logits in run(for_tasks(merged, names)).items():
            np.testing.assert_allclose(logits, expected[name], atol=2e-4)


def test_in_pieces_and_one_image():
    """The class token's tap goes through an accumulated step as the maps do."""
    parts = split_state(model_of("vit_test", TASKS["both kinds"]))
    images = images_for("vit_test")

    @functools.partial(jax.jit, static_argnums=1)
    def run(images, pieces):
        context = Context(train=True, key=jax.random.key(0), pieces=pieces)
        return parts.merge(parts.trainable, parts.frozen, parts.stats)(images, context)

    whole, pieces = run(images, 1), run(images, 2)
    for name, logits in whole.items():
        np.testing.assert_allclose(pieces[name], logits, atol=1e-4)
