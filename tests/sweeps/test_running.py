"""Jobs on this machine: order, shares, failures, resuming, stopping."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ditask_jax.sweeps import Sweep, grid
from ditask_jax.sweeps.loading import make_jobs
from ditask_jax.sweeps.running import (
    BUSY,
    FAILED,
    FINISHED,
    LOG_NAME,
    NEW,
    STOPPED,
    UNFINISHED,
    Runner,
    Share,
    find_cores,
    last_line,
    make_shares,
    state_of,
)
from ditask_jax.sweeps.sweep_results import Tally
from tests.sweeps.fakes import fake_command

SMOKE = "configs/smoke.py"


def _jobs(folder, count):
    return make_jobs(Sweep(grid(SMOKE, {"seed": range(count)})), folder)


def _until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_points_run_in_order_and_leave_their_logs(tmp_path):
    jobs = _jobs(tmp_path, 3)
    found = list(Runner([Share()], command=fake_command()).run(jobs))
    assert [(outcome.job.name, outcome.state) for outcome in found] == [(f"seed{k}", FINISHED) for k in range(3)]
    assert [state_of(job) for job in jobs] == [FINISHED] * 3
    log = (jobs[0].workdir / LOG_NAME).read_text()
    assert f"--workdir={jobs[0].workdir}" in " ".join(jobs[0].command())
    assert "all cores" in log


def test_a_cache_that_is_set_is_kept(tmp_path):
    (job,) = _jobs(tmp_path, 1)
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": "/somewhere/else"}
    list(Runner([Share()], environment, fake_command()).run([job]))
    assert "/somewhere/else" in (job.workdir / LOG_NAME).read_text()


def test_a_training_is_no_task_of_the_step_that_the_sweep_is_in(tmp_path):
    """In the shell of `srun --ntasks=8 --pty` it would wait for seven others."""
    (job,) = _jobs(tmp_path, 1)
    command = [sys.executable, "-c", "import os; print('tasks', os.environ.get('SLURM_STEP_NUM_TASKS'))"]
    environment = {**os.environ, "SLURM_STEP_NUM_TASKS": "8"}
    list(Runner([Share()], environment, lambda job: command).run([job]))
    assert "tasks None" in (job.workdir / LOG_NAME).read_text().splitlines()


def test_failures_do_not_stop_the_others(tmp_path):
    jobs = _jobs(tmp_path, 4)
    actions = {"seed0": "fail", "seed1": "die", "seed2": "idle"}
    found = {outcome.job.name: outcome for outcome in Runner([Share()] * 2, command=fake_command(actions)).run(jobs)}
    assert [found[f"seed{k}"].state for k in range(4)] == [FAILED, FAILED, FAILED, FINISHED]
    assert found["seed0"].message.startswith("data: no such file (exit code 1, see ")
    assert found["seed1"].message.startswith("killed by SIGKILL: ")
    assert found["seed2"].message.startswith("ended without scores of step 6: ")
    tally = Tally(4, 0, 4, 2)
    lines = [tally.add(outcome) for outcome in found.values()]
    assert any("seed3: finished after" in line and "delta_m +1.25 %" in line for line in lines)
    closing = tally.closing("python -m ditask_jax.sweep x", stopping=False)
    assert "failed, 3 of 4:" in closing
    assert "seed0: data: no such file" in closing
    assert closing.endswith("run the same command to resume what is missing: python -m ditask_jax.sweep x")


def test_what_failed_can_be_run_again_and_the_log_tells_both(tmp_path):
    (job,) = _jobs(tmp_path, 1)
    assert state_of(job) == NEW
    (outcome,) = Runner([Share()], command=fake_command({"seed0": "fail"})).run([job])
    assert (outcome.state, state_of(job)) == (FAILED, UNFINISHED)
    (outcome,) = Runner([Share()], command=fake_command()).run([job])
    assert (outcome.state, state_of(job)) == (FINISHED, FINISHED)
    text = (job.workdir / LOG_NAME).read_text()
    assert text.count("\n== ") == 2
    assert "data: no such file" in text


def test_scores_of_an_earlier_step_do_not_finish_a_run(tmp_path):
    (job,) = _jobs(tmp_path, 1)
    job.workdir.mkdir()
    for content, state in [('{"step": 2}', NEW), ('{"step": 6}', FINISHED), ("{", NEW), ("[]", NEW)]:
        (job.workdir / "evaluation.json").write_text(content)
        assert state_of(job) == state


@pytest.mark.skipif(len(find_cores()) < 2, reason="one core: nothing to share out")
def test_each_training_is_held_to_its_share_of_the_cores(tmp_path):
    cores = find_cores()
    shares = make_shares(2, cores=cores)
    jobs = _jobs(tmp_path, 2)
    list(Runner(shares, command=fake_command()).run(jobs))
    logs = "".join((job.workdir / LOG_NAME).read_text() for job in jobs)
    for share in shares:
        assert f"cores {list(share.cores)}" in logs
    assert find_cores() == cores


def test_gpus_are_shared_out_by_environment(tmp_path):
    jobs = _jobs(tmp_path, 2)
    list(Runner(make_shares(2, devices=("4", "5", "6", "7")), command=fake_command()).run(jobs))
    logs = [(job.workdir / LOG_NAME).read_text() for job in jobs]
    assert "'CUDA_VISIBLE_DEVICES': '4,5'" in logs[0]
    assert "'CUDA_VISIBLE_DEVICES': '6,7'" in logs[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_asks_its_trainings_to_save(tmp_path, number):
    jobs = _jobs(tmp_path, 3)
    runner = Runner([Share()] * 2, command=fake_command({"seed0": "wait", "seed1": "wait"}))

    def interrupt():
        _until(lambda: all((job.workdir / "waiting").exists() for job in jobs[:2]))
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=interrupt)
    thread.start()
    found = list(runner.run(jobs))
    thread.join()
    assert runner.stopping
    assert [outcome.state for outcome in found] == [STOPPED, STOPPED]
    assert not jobs[2].workdir.exists()
    assert signal.getsignal(number) is before


def test_a_point_that_another_process_trains_is_left_to_it(tmp_path):
    jobs = _jobs(tmp_path, 2)
    program = "import fcntl, sys; fcntl.flock(sys.stdout, fcntl.LOCK_EX); open(sys.argv[1], 'w'); sys.stdin.read()"
    jobs[0].workdir.mkdir()
    with (jobs[0].workdir / LOG_NAME).open("ab") as log:
        command = [sys.executable, "-c", program, str(tmp_path / "held")]
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log)
    try:
        _until((tmp_path / "held").exists)
        found = list(Runner([Share()], command=fake_command()).run(jobs))
        assert [outcome.state for outcome in found] == [BUSY, FINISHED]
    finally:
        other.communicate()
    (outcome,) = Runner([Share()], command=fake_command()).run(jobs[:1])
    assert outcome.state == FINISHED


def test_whoever_stops_listening_leaves_no_process_behind(tmp_path):
    jobs = _jobs(tmp_path, 2)
    runner = Runner([Share()] * 2, command=fake_command({"seed0": "wait"}))
    outcomes = runner.run(jobs)
    assert next(outcomes).job.name == "seed1"
    _until((jobs[0].workdir / "waiting").exists)
    outcomes.close()
    (again,) = Runner([Share()], command=fake_command()).run(jobs[:1])
    assert again.state == FINISHED


def test_the_last_line_of_a_log(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"old\nstep 1\rstep 2\r\n\n")
    assert last_line(path) == "step 2"
    assert last_line(path, path.stat().st_size) == "no output"
