"""Windows of steps to trace, and when the profiler runs."""

import jax
import jax.numpy as jnp
import pytest

from ditask_jax.errors import ConfigError
from ditask_jax.training.profiling import Window, traced


@pytest.mark.parametrize("text", ["", "3", "3:", ":3", "0:2", "5:4", "a:b", "1:2:3", "-1:2", "1.5:2", "９９"])
def test_what_is_no_window_is_refused_in_one_line(text):
    with pytest.raises(ConfigError, match=r"^command line: --profile: got .*expected START:STOP"):
        Window.parse(text)


def test_a_window_behind_the_end_is_refused():
    Window(2, 6).check(6)
    with pytest.raises(ConfigError, match=r"got 5:7, but the run has 6 steps; give steps from 1 to 6"):
        Window(5, 7).check(6)


@pytest.fixture
def calls(monkeypatch):
    found = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: found.append("on"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: found.append("off"))
    return found


def _steps(start, last, calls, fails_at=None):
    for step in range(start + 1, last + 1):
        if step == fails_at:
            raise RuntimeError("a bug")
        calls.append(step)
        yield step, {}


@pytest.mark.parametrize(
    ("window", "start", "expected"),
    [
        (None, 0, [1, 2, 3, 4]),
        (Window(2, 3), 0, [1, "on", 2, 3, "off", 4]),
        (Window(1, 4), 0, ["on", 1, 2, 3, 4, "off"]),
        (Window(1, 3), 2, ["on", 3, "off", 4]),
        (Window(1, 2), 2, [3, 4]),
    ],
)
def test_exactly_the_asked_steps_are_traced(window, start, expected, calls, tmp_path):
    said = []
    passed = [step for step, _ in traced(_steps(start, 4, calls), window, start, tmp_path, said.append)]
    assert passed == list(range(start + 1, 5))
    assert calls == expected
    assert len(said) == (window is not None)


def test_the_trace_ends_with_training(calls, tmp_path):
    with pytest.raises(RuntimeError, match="a bug"):
        list(traced(_steps(0, 4, calls, fails_at=3), Window(2, 4), 0, tmp_path, print))
    assert calls == [1, "on", 2, "off"]
    calls.clear()
    steps = traced(_steps(0, 4, calls), Window(1, 4), 0, tmp_path, print)
    next(steps)
    steps.close()
    assert calls == ["on", 1, "off"]


def test_a_trace_can_be_opened(tmp_path):
    def one():
        yield 1, jnp.ones(3).sum().block_until_ready()

    list(traced(one(), Window(1, 1), 0, tmp_path, print))
    assert [path.stat().st_size > 0 for path in tmp_path.glob("plugins/profile/*/*.xplane.pb")] == [True]
