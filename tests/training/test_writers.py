"""The metrics log and the progress line."""

import io
import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ditask_jax.errors import DataError
from ditask_jax.training.metrics_log import METRICS_NAME, MetricsWriter, read_metrics, without_timings
from ditask_jax.training.progress import Progress


def test_calls_for_one_step_become_one_row(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"train/loss": jnp.float32(0.1), "time/step": 0.5})
        writer.write(1, {"train/learning_rate": np.float64(1e-3)})
        writer.flush()
        writer.write(1, {"val/delta_m": -1.5})  # after the row has reached the disk
        writer.flush()
        writer.write(2, {"count": np.int64(3), "bad": float("nan"), "worse": float("inf"), "note": "x", "none": None})
    rows = read_metrics(tmp_path)
    assert rows[0] == {
        "step": 1,
        "time/step": 0.5,
        "train/learning_rate": 1e-3,
        "train/loss": float(np.float32(0.1)),
        "val/delta_m": -1.5,
    }
    assert rows[1] == {"step": 2, "bad": None, "count": 3, "none": None, "note": "x", "worse": None}
    assert next(iter(rows[1])) == "step"


def test_a_flushed_row_is_on_disk_before_close(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(5, {"a": 1.0})
    assert read_metrics(tmp_path) == []
    writer.flush()
    assert read_metrics(tmp_path) == [{"step": 5, "a": 1.0}]
    writer.close()
    writer.close()


def test_resume_drops_later_rows_and_repairs_a_half_written_line(tmp_path):
    path = tmp_path / METRICS_NAME
    with MetricsWriter(tmp_path) as writer:
        for step in range(1, 8):
            writer.write(step, {"a": step / 3})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 8, "a": 2.')
    with MetricsWriter(tmp_path, resume_step=4) as writer:
        assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
        for step in range(5, 8):
            writer.write(step, {"a": step / 3})
    assert path.read_bytes() == whole


def test_resume_may_add_to_the_row_of_its_own_step(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(4, {"a": 1.0})
    with MetricsWriter(tmp_path, resume_step=4) as writer:
        writer.write(4, {"b": 2.0})
    assert read_metrics(tmp_path) == [{"step": 4, "a": 1.0, "b": 2.0}]


def test_a_fresh_start_forgets_an_abandoned_log(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(3, {"a": 1.0})
    with MetricsWriter(tmp_path, resume_step=0):
        assert read_metrics(tmp_path) == []


@given(cut=st.integers(0, 400), resume=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_cut_anywhere_and_resumed_the_log_is_the_same(tmp_path_factory, cut, resume):
    folder = tmp_path_factory.mktemp("log")
    with MetricsWriter(folder) as writer:
        for step in range(1, 10):
            writer.write(step, {"train/loss": 1 / step})
    path = folder / METRICS_NAME
    whole = path.read_bytes()
    ends = [len(b"".join(whole.splitlines(keepends=True)[:n])) for n in range(10)]
    path.write_bytes(whole[: max(cut, ends[resume])])  # rows up to the checkpoint had been flushed
    with MetricsWriter(folder, resume_step=resume) as writer:
        for step in range(resume + 1, 10):
            writer.write(step, {"train/loss": 1 / step})
    assert path.read_bytes() == whole


def test_a_damaged_middle_is_named(tmp_path):
    (tmp_path / METRICS_NAME).write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(DataError, match="line 2: not a row of metrics"):
        MetricsWriter(tmp_path, resume_step=3)
    with pytest.raises(DataError, match="line 2"):
        read_metrics(tmp_path)


def test_misuse_and_other_processes(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(2, {"a": 1})
        with pytest.raises(ValueError, match="metrics of step 1 after those of step 2"):
            writer.write(1, {"a": 1})
        with pytest.raises(TypeError, match=r"metric 'b'.*expected a single number"):
            writer.write(2, {"b": np.ones(2)})
    other = MetricsWriter(tmp_path / "other", active=False)
    other.write(1, {"a": 1})
    other.flush()
    other.close()
    assert not (tmp_path / "other").exists()


def test_rows_of_equal_runs_are_equal_bytes_but_for_timings(tmp_path):
    for run, seconds in (("a", 0.1), ("b", 0.2)):
        with MetricsWriter(tmp_path / run) as writer:
            values = {"z": 1e-17, "train/loss": 1 / 3, "time/step": seconds}
            writer.write(1, dict(reversed(values.items())) if run == "b" else values)
    a, b = (json.dumps(without_timings(read_metrics(tmp_path / run)[0])) for run in "ab")
    assert a == b == '{"step": 1, "train/loss": 0.3333333333333333, "z": 1e-17}'


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def _progress(stream, times, **options):
    clock = iter(times)
    return Progress(100, 8, stream=stream, clock=lambda: next(clock), log_every_steps=10, **options)


def test_rate_leaves_out_the_first_step_and_pauses():
    stream = io.StringIO()
    progress = _progress(stream, [0.0, 60.0, 61.0, 61.0, 161.0, 162.0], start_step=40)
    progress.update(41)
    assert (progress.compile_seconds, progress.images_per_second, progress.eta_seconds) == (60.0, None, None)
    progress.update(42)
    with progress.pause():
        pass
    progress.update(43)
    assert progress.images_per_second == 8.0
    assert progress.eta_seconds == 57.0
    assert stream.getvalue() == "step 41/100  compiled in 60.0 s\n"


def test_plain_lines_without_a_terminal_and_nothing_on_other_processes():
    stream = io.StringIO()
    progress = _progress(stream, range(1000))
    for step in range(1, 101):
        progress.update(step, {"loss": 1.23456})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[1] == "step 10/100  loss 1.235  8.0 images/s  ETA 0:01:30"
    assert lines[-1].endswith("ETA 0:00:00")
    quiet = io.StringIO()
    progress = _progress(quiet, range(1000), active=False)
    progress.update(100)
    progress.message("x")
    assert quiet.getvalue() == ""


def test_a_terminal_gets_one_line_rewritten():
    stream = _Terminal()
    progress = _progress(stream, range(1000))
    for step in (1, 2, 3):
        progress.update(step)
    assert stream.getvalue().count("\r") == 3
    assert "\n" not in stream.getvalue()
    progress.message("evaluated")
    assert stream.getvalue().endswith("\nevaluated\n")
