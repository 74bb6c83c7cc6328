"""Learning-rate schedules against the original schedulers, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from ditask_jax.training.optim.schedules import REFERENCE_BATCH, make_schedule
from tests.parity.golden import OWN, Golden, find

FILES = find("schedules")


def _cases():
    names = [(path, name) for path in FILES for name in Golden(path) if name.endswith("/used_at_step")]
    return [(path, name.removesuffix("/used_at_step")) for path, name in names]


def _optimizer(meta, case):
    """`config.optimizer` for a case; its name says the schedule and, for cosine, how it treats the warm-up."""
    config = base.get_config().optimizer
    kind, *options = case.split("_")
    config.schedule = kind
    config.learning_rate = meta["BASE_LR"]
    config.warmup_learning_rate = meta["WARMUP_LR"]
    config.min_learning_rate = meta["MIN_LR"]
    config.warmup_epochs = 0.0 if "nowarmup" in options else float(meta["WARMUP_EPOCHS"])
    config.warmup_prefix = "noprefix" not in options
    # A file of some schedules need not say what others go by.
    if kind == "step":
        config.decay_epochs, config.decay_rate = float(meta["DECAY_EPOCHS"]), meta["DECAY_RATE"]
    if kind == "multistep":
        config.milestones, config.decay_rate = tuple(meta["MULTISTEPS"]), meta["GAMMA"]
    return config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_there_are_golden_schedules(path):
    found = {case.partition("_")[0] for file, case in _cases() if file == path}
    assert found
    if OWN:
        assert found >= {"cosine", "step", "multistep", "linear"}


@pytest.mark.parametrize(("path", "case"), _cases(), ids=lambda value: getattr(value, "stem", value))
def test_schedule_equals_the_original(path, case):
    golden = Golden(path)
    meta = golden.meta
    optimizer = _optimizer(meta, case)
    steps = np.arange(len(golden[f"{case}/used_at_step"]))
    arguments = (meta["n_iter"], meta["EPOCHS"] * meta["n_iter"], REFERENCE_BATCH)

    used = make_schedule(optimizer, *arguments)
    np.testing.assert_allclose(used(steps), golden[f"{case}/used_at_step"], rtol=0, atol=1e-9)

    optimizer.schedule_lag = 0
    plain = make_schedule(optimizer, *arguments)
    np.testing.assert_allclose(plain(steps), golden[f"{case}/after_step_update"], rtol=1e-12, atol=1e-15)

    compiled = jax.jit(used)(jnp.asarray(steps))
    assert compiled.dtype == jnp.float32
    # A rate that falls to nothing is as exact as the largest one, of which the float32 cosine is a share.
    rounding = 1e-7 * golden[f"{case}/used_at_step"].max()
    np.testing.assert_allclose(compiled, golden[f"{case}/used_at_step"], rtol=2e-5, atol=rounding)
    with jax.enable_x64(True):
        compiled = jax.jit(used)(jnp.asarray(steps))
    np.testing.assert_allclose(compiled, golden[f"{case}/used_at_step"], rtol=0, atol=1e-9)
