"""Loss and gradients of a step: the same over any number of devices, in pieces, with weights spread over devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ditask_jax as dj
from ditask_jax.adapters.wrap import wrap
from ditask_jax.data import Augmentation, train_batches
from ditask_jax.errors import ConfigError
from ditask_jax.nn import flatten
from ditask_jax.nn.state import split_state
from ditask_jax.scenes import ScenesSource
from ditask_jax.training.sharding import check_batch_size, frozen_shardings, make_mesh, place_batch, replicated, sharded
from ditask_jax.training.step import Passage, make_gradients
from tests.training.small import two_stages

BATCH = 8
DRAWS = 7  # of a single one, the thetas' error varies by a third from one number of devices to another
NOTHING_BUT_ROUNDING = "widen/bias"  # in front of BatchNorm, which takes any shift away


@pytest.fixture(scope="module")
def tasks():
    return dj.create_tasks("semseg+depth", dataset="scenes")


@pytest.fixture(scope="module")
def parts(tasks):
    """A model with dropout and drop path, taken apart."""
    return _parts(tasks, drop_path_rate=0.3, dropout=0.1)


def _parts(tasks, drop_path_rate, dropout):
    with two_stages() as name:
        model = dj.create_model(name, tasks, image_size=32, widths=(4, 4), drop_path_rate=drop_path_rate)
    # Both executions, shared and of a task; more layers of the same kinds are only more to compile.
    method = dj.DiTASK(4, 4, shared_layers=("qkv", "fc2"), task_layers=("fc2",), dropout=dropout)
    wrap(model, method, examples=BATCH)
    return split_state(model)


@pytest.fixture(scope="module")
def batch(tasks):
    specs = [task.label_spec for task in tasks]
    with train_batches(ScenesSource("train", 32, 16), specs, 32, BATCH, augmentation=Augmentation()) as batches:
        found = next(batches)
    return {name: found[name] for name in ("image", "labels", "valid")}


def _run(parts, tasks, batch, devices=1, passage=None, fsdp=1, dtype=jnp.float32, products=None, draws=0):
    """Loss, losses by task, statistics and gradients as NumPy, of one step; of `draws` more the gradients as well."""
    mesh = make_mesh(devices, fsdp)
    gradients_of = make_gradients(parts, tasks, mesh, 0, products or dtype, passage=passage)
    whole, spread = replicated(mesh), frozen_shardings(mesh, parts.frozen)
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
    step = jax.jit(gradients_of, in_shardings=(whole, whole, spread, sharded(mesh), None), out_shardings=whole)
    trainable, stats, frozen = cast(parts.trainable), cast(parts.stats), jax.device_put(cast(parts.frozen), spread)
    take = lambda number: step(trainable, stats, frozen, place_batch(batch, mesh), np.int32(number))
    total, losses, new_stats, gradients, _ = take(5)
    gradients = flatten(gradients)
    for number in range(6, 6 + draws):
        gradients |= {f"{name}@{number}": value for name, value in flatten(take(number)[3]).items()}
    numbers = {"": total} | {f"loss/{name}": value for name, value in losses.items()}
    return jax.tree.map(np.asarray, (numbers, flatten(new_stats), gradients))


def _assert_close(found, expected, loss, gradient):
    """`loss` and statistics relative, gradients relative to the largest entry of their tensor."""
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=loss, atol=loss, err_msg=name)
    assert found[2].keys() == expected[2].keys()
    for name, value in expected[2].items():
        if not name.endswith(NOTHING_BUT_ROUNDING):
            limit = gradient * max(np.abs(value).max(), 1e-3 if value.dtype == np.float64 else 1e-6)
            assert np.abs(found[2][name] - value).max() <= limit, name


@pytest.fixture(scope="module")
def alone_drawn(parts, tasks, batch):
    """One device, the whole batch at once, float32; gradients for several draws of dropout."""
    return _run(parts, tasks, batch, draws=DRAWS)


@pytest.fixture(scope="module")
def alone(alone_drawn):
    """The same, of the first draw alone."""
    numbers, stats, gradients = alone_drawn
    return numbers, stats, {name: value for name, value in gradients.items() if "@" not in name}


@pytest.fixture(scope="module")
def alone_x64(parts, tasks, batch):
    with jax.enable_x64(True):
        return _run(parts, tasks, batch, dtype=jnp.float64)


FEWER = [pytest.param(devices, marks=pytest.mark.slow) for devices in (2, 4)]


@pytest.mark.slow  # by default bfloat16, which is held to one device's float32
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_device_counts_agree_in_float32(parts, tasks, batch, alone, devices):
    _assert_close(_run(parts, tasks, batch, devices), alone, loss=1e-6, gradient=5e-5)


@pytest.fixture(scope="module")
def alone_bfloat16(parts, tasks, batch):
    """With products in bfloat16, as training has them."""
    return _run(parts, tasks, batch, products=jnp.bfloat16, draws=DRAWS)


@pytest.mark.parametrize("devices", [*FEWER, 8])
def test_device_counts_agree_in_bfloat16(parts, tasks, batch, alone_drawn, alone_bfloat16, devices):
    """Over any number of devices bfloat16 is as far from float32 as on one: what crosses is not rounded.

    Each device rounds the sums over its own rows, so that the numbers themselves differ by such roundings.
    """
    found = _run(parts, tasks, batch, devices, products=jnp.bfloat16, draws=DRAWS)
    of_kind = lambda run, kind: np.concatenate(
        [v.ravel() for name, v in run[2].items() if kind in name and NOTHING_BUT_ROUNDING not in name]
    )
    for kind in ("", "theta"):
        exact = of_kind(alone_drawn, kind)
        error = lambda run, kind=kind, exact=exact: np.linalg.norm(of_kind(run, kind) - exact)
        assert error(found) <= 1.1 * error(alone_bfloat16) < 0.2 * np.linalg.norm(exact)
    for ours, theirs in zip(found[:2], alone_drawn[:2], strict=True):
        for name, value in theirs.items():
            # Half a unit in the last place of bfloat16 is 2^-9 of a number.
            np.testing.assert_allclose(ours[name], value, rtol=2**-9, atol=2**-9, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_device_counts_agree_in_x64(parts, tasks, batch, alone_x64, devices):
    with jax.enable_x64(True):
        _assert_close(_run(parts, tasks, batch, devices, dtype=jnp.float64), alone_x64, loss=1e-9, gradient=1e-9)


def test_pieces_equal_the_whole_batch(parts, tasks, batch, alone):
    """BatchNorm, the balanced losses, dropout and drop path included."""
    found = _run(parts, tasks, batch, devices=2, passage=Passage(accumulate=2))
    _assert_close(found, alone, loss=1e-6, gradient=5e-5)


@pytest.mark.slow
def test_pieces_equal_the_whole_batch_in_x64(parts, tasks, batch, alone_x64):
    with jax.enable_x64(True):
        for devices, pieces in ((1, 8), (2, 2)):
            found = _run(parts, tasks, batch, devices, Passage(accumulate=pieces), dtype=jnp.float64)
            _assert_close(found, alone_x64, loss=1e-9, gradient=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["dots", "blocks"])
def test_computing_again_changes_nothing(parts, tasks, batch, alone, remat):
    _assert_close(_run(parts, tasks, batch, passage=Passage(remat=remat)), alone, loss=1e-6, gradient=5e-5)


@pytest.mark.slow
def test_spread_weights_change_nothing(parts, tasks, batch, alone, monkeypatch):
    from ditask_jax.training import sharding as meshes

    monkeypatch.setattr(meshes, "_SMALLEST_SPREAD", 1)
    _assert_close(_run(parts, tasks, batch, devices=8, fsdp=4), alone, loss=1e-6, gradient=5e-5)


def test_weights_are_spread_along_an_axis_that_divides():
    mesh = make_mesh(8, fsdp=4)
    frozen = {
        "kernel": np.zeros((30, 256)),
        "table": np.zeros((8192, 4)),
        "bias": np.zeros(4096),
        "odd": np.ones((99, 99)),
    }
    placed = jax.device_put(frozen, frozen_shardings(mesh, frozen))
    shapes = {name: leaf.addressable_shards[0].data.shape for name, leaf in placed.items()}
    assert shapes == {"kernel": (30, 64), "table": (2048, 4), "bias": (1024,), "odd": (99, 99)}
    assert frozen_shardings(make_mesh(8), frozen) == replicated(make_mesh(8))
    with pytest.raises(ConfigError, match=r"mesh.fsdp: got 3, expected a divisor of the 8 devices"):
        make_mesh(8, fsdp=3)


def test_pieces_must_divide_each_devices_images():
    check_batch_size("config: batch_size", 16, make_mesh(2), pieces=4)
    with pytest.raises(ConfigError, match=r"optimizer.accumulate: got 3, .*the 8 images that each of 2 devices gets"):
        check_batch_size("config: batch_size", 16, make_mesh(2), pieces=3)


@pytest.mark.slow
def test_per_shard_is_the_mean_over_the_shards(parts, tasks, batch):
    """Each device's rows as a batch of their own, then averaged."""
    quiet = _without_draws(parts)
    found = _run(quiet, tasks, batch, devices=2, passage=Passage(per_shard=True))
    halves = [jax.tree.map(lambda x, rows=rows: x[rows], batch) for rows in (slice(0, 4), slice(4, 8))]
    apart = [_run(quiet, tasks, half) for half in halves]
    mean = jax.tree.map(lambda *values: np.mean(values, axis=0, dtype=np.float32), *apart)
    _assert_close(found, mean, loss=1e-6, gradient=5e-5)
    assert not np.allclose(found[0][""], _run(quiet, tasks, batch)[0][""], rtol=1e-6)


@pytest.mark.slow
def test_per_shard_in_pieces_moves_the_statistics_with_each(parts, tasks, batch):
    quiet = _without_draws(parts)
    found = _run(quiet, tasks, batch, devices=1, passage=Passage(accumulate=2, per_shard=True))
    first = _run(quiet, tasks, jax.tree.map(lambda x: x[:4], batch))
    second = _run(quiet, tasks, jax.tree.map(lambda x: x[4:], batch))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    _assert_close((found[0], {}, found[2]), (mean[0], {}, mean[2]), loss=1e-6, gradient=5e-5)
    start = {name: np.asarray(value) for name, value in flatten(parts.stats).items()}
    for name, value in found[1].items():
        # Momentum 0.1, twice: what the second batch gave weighs 0.1, the first 0.09.
        new = [run[1][name] - 0.9 * start[name] for run in (first, second)]
        np.testing.assert_allclose(
            value, 0.81 * start[name] + 0.9 * new[0] + new[1], rtol=1e-5, atol=1e-6, err_msg=name
        )


def _without_draws(parts):
    """The same weights in a model without dropout and drop path."""
    quiet = _parts(dj.create_tasks("semseg+depth", dataset="scenes"), drop_path_rate=0.0, dropout=0.0)
    return dataclasses.replace(quiet, trainable=parts.trainable, frozen=parts.frozen, stats=parts.stats)
