"""Schedules: host and device agree, large steps are exact, config fields mean what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import base
from ditask_jax.errors import ConfigError
from ditask_jax.training.optim import schedules


def _optimizer(**fields):
    config = base.get_config().optimizer
    for name, value in fields.items():
        config[name] = value
    return config


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_host_and_device_agree_up_to_huge_steps(name):
    total = 1_500_000_000  # far beyond the integers that float32 holds
    optimizer = _optimizer(schedule=name, warmup_steps=100_000_000, decay_steps=300_000_000, milestones=(7.0, 11.0))
    schedule = schedules.make_schedule(optimizer, 100_000_000, total, 512)
    edges = [
        0,
        1,
        2,
        10**8,
        10**8 + 1,
        4 * 10**8,
        4 * 10**8 + 1,
        4 * 10**8 + 2,
        7 * 10**8 + 1,
        total - 1,
        total,
        total + 5,
    ]
    host = schedule(np.array(edges))
    device = jax.jit(schedule)(jnp.asarray(edges, dtype=jnp.int32))
    assert host.dtype == np.float64
    np.testing.assert_allclose(device, host, rtol=1e-5, atol=1e-9)


def test_decay_happens_at_the_exact_step_in_float32():
    every = 20_000_001  # odd and above 2^24: float32 steps would round it
    schedule = jax.jit(schedules.step_decay(1.0, 0.5, every))
    assert [float(schedule(jnp.int32(t))) for t in (every - 1, every)] == [1.0, 0.5]


@given(step=st.integers(0, 3000), warmup=st.integers(0, 400), name=st.sampled_from(schedules.SCHEDULES))
@settings(max_examples=100, deadline=None)
def test_rates_stay_between_zero_and_the_base(step, warmup, name):
    optimizer = _optimizer(schedule=name, warmup_steps=warmup, milestones=(3.0, 9.0))
    rate = float(schedules.make_schedule(optimizer, 100, 1000, 512)(step))
    assert 0 < rate <= optimizer.learning_rate * (1 + 1e-12)


def test_steps_win_over_epochs_and_rates_scale_with_the_batch():
    numbers = schedules.describe_schedule(_optimizer(warmup_steps=7, decay_steps=5), 100, 1000, 256)
    assert (numbers["warmup_steps"], numbers["decay_steps"]) == (7, 5)
    assert numbers["learning_rate"] == 2.5e-4
    assert numbers["warmup_learning_rate"] == 2.5e-7
    assert numbers["min_learning_rate"] == 2.5e-6
    numbers = schedules.describe_schedule(_optimizer(warmup_epochs=0.5, decay_epochs=2.5), 11, 1000, 512)
    assert (numbers["warmup_steps"], numbers["decay_steps"]) == (6, 28)


def test_the_first_rate_is_used_twice_unless_switched_off():
    upstream = schedules.make_schedule(_optimizer(), 100, 10_000, 512)
    plain = schedules.make_schedule(_optimizer(schedule_lag=0), 100, 10_000, 512)
    assert upstream(0) == upstream(1) == plain(0) < plain(1) == upstream(2)


def test_warmup_longer_than_training_is_refused_where_it_leaves_no_schedule():
    with pytest.raises(ConfigError, match=r"optimizer.warmup_steps: 2000 warm-up steps leave nothing of 1000"):
        schedules.make_schedule(_optimizer(schedule="cosine"), 100, 1000, 512)
    with pytest.raises(ConfigError, match=r"optimizer.schedule: unknown name 'cosin'. Did you mean 'cosine'"):
        schedules.make_schedule(_optimizer(schedule="cosin"), 100, 1000, 512)
    with pytest.raises(ConfigError, match=r"steps_per_epoch: got 0"):
        schedules.make_schedule(_optimizer(), 0, 1000, 512)
