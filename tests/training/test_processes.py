"""Two processes of four devices against one of eight; the whole training is compared in `test_two_trainings.py`."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from ditask_jax import cli
from ditask_jax.errors import ConfigError
from ditask_jax.files import locked
from ditask_jax.training import cluster, distributed
from ditask_jax.training.cluster import Cluster, find_cluster, meet, tasks_per_node
from ditask_jax.training.distributed import start
from ditask_jax.training.sharding import make_mesh
from tests.training.process_cases import computed, rows_read
from tests.training.two_processes import EXACT

COMMAND = [sys.executable, "-m", "tests.training.two_processes"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_processes(command, count, devices, **variables):
    """Starts a command `count` times, as the processes of one cluster on this machine."""
    shared = {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_NUM_PROCESSES": str(count),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        **variables,
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environments = [dict(os.environ, **shared, JAX_PROCESS_ID=str(index)) for index in range(count)]
    return [subprocess.Popen(command, env=environment, **pipes) for environment in environments]


def finish(children, seconds=420):
    """Exit codes, outputs and errors; nothing is left running."""
    try:
        return [(child.communicate(timeout=seconds), child.returncode) for child in children]
    finally:
        for child in children:
            child.kill()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with locked(folder / "taken/.lock", "workdir", "training", "wait"):
        done = finish(start_processes([*COMMAND, str(folder)], 2, 4))
    assert [code for _, code in done] == [0, 0], "\n".join(error[-2000:] for (_, error), _ in done)
    return folder, [json.loads(output.splitlines()[-1]) for (output, _), _ in done]


def test_processes_know_their_place(two):
    _, found = two
    assert [one["first"] for one in found] == [True, False]
    assert all(one["devices"] == [4, 8] for one in found)
    assert all(one["mesh"] == [0] * 4 + [1] * 4 for one in found)
    assert [one["own"] for one in found] == [[0, 1, 2], [3, 4, 5]]


def test_what_is_gathered_is_exact(two):
    for one in two[1]:
        assert one["gathered"] == [[EXACT, -1], [EXACT + 1, -1]]
        assert one["total"] == {"n": [2 * EXACT, 1], "one": 2}


def test_disagreement_is_named_by_all(two):
    for index, one in enumerate(two[1]):
        message = f"cluster: process 1 has another number than process 0 (process {index} has {index}); use one"
        assert one["disagreement"] == message


def test_each_process_reads_its_rows_of_the_same_batches(two):
    whole = rows_read()
    for kind in ("train", "eval"):
        parts = [one["rows"][kind] for one in two[1]]
        assert [a + b for a, b in zip(*parts, strict=True)] == whole[kind]
    assert sorted(i for batch in whole["eval"] for i in batch if i >= 0) == list(range(21))


def test_training_sums_and_scores_are_those_of_one_process(two):
    mesh = make_mesh()
    assert mesh.size == jax.device_count() == 8
    here = computed(mesh)
    assert here["network"]["scores"] != here["original"]["scores"]
    for one in two[1]:
        there = one["computed"]
        np.testing.assert_allclose(there["totals"], here["totals"], rtol=1e-6)
        scale = np.abs(here["gradient"]).max()
        np.testing.assert_allclose(np.array(there["gradient"]) / scale, np.array(here["gradient"]) / scale, atol=1e-6)
        for kind in ("network", "original"):
            # Counts are whole numbers: the scores agree to the last bit.
            assert there[kind]["scores"] == here[kind]["scores"]
            for task, loss in here[kind]["losses"].items():
                np.testing.assert_allclose(there[kind]["losses"][task], loss, rtol=1e-5)


def test_one_writes_and_both_restore(two):
    folder, found = two
    assert all(one["restored"] == [3, True, {"note": "x"}] for one in found)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["3"]


def test_the_processes_of_a_job_share_a_lock_or_are_all_refused(two):
    folder, found = two
    line = f"workdir: another training is working in '{folder / 'taken'}' (host "
    for one in found:
        assert (one["held"], one["released"]) == ("training", True)
        assert one["refused"].startswith(line)
        assert f", pid {os.getpid()}, since " in one["refused"]


def test_one_told_to_stop_stops_both(two):
    assert [one["stop"] for one in two[1]] == [[False, True]] * 2


def test_a_process_alone_needs_no_variable():
    assert start({}) is None
    assert find_cluster({"JAX_NUM_PROCESSES": "1"}) is None
    assert find_cluster({"SLURM_JOB_ID": "5", "SLURM_NTASKS": "8"}) is None  # a batch script, not a step of it
    assert find_cluster({"SLURM_STEP_NUM_TASKS": "1"}) is None


EXPLICIT = {"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3", "JAX_COORDINATOR_ADDRESS": "host:1"}


def test_pods_of_an_indexed_job_have_their_number():
    pod = {**EXPLICIT, "JOB_COMPLETION_INDEX": "2"}
    assert find_cluster(pod).index == 3
    del pod["JAX_PROCESS_ID"]
    assert find_cluster(pod).index == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"JAX_PROCESS_ID": "4"}, r"JAX_PROCESS_ID: got 4, expected 0 to 3"),
        ({"JAX_PROCESS_ID": "x"}, r"JAX_PROCESS_ID: got 'x', expected a number"),
        ({"JAX_NUM_PROCESSES": "0"}, r"JAX_NUM_PROCESSES: got '0', expected a number from 1"),
        ({"JAX_PROCESS_ID": None}, r"JAX_PROCESS_ID is not set; a training of several processes needs"),
        ({"JAX_NUM_PROCESSES": None}, r"JAX_NUM_PROCESSES is not set"),
        ({"JAX_COORDINATOR_ADDRESS": "host"}, r"JAX_COORDINATOR_ADDRESS: got 'host', expected HOST:PORT"),
        ({"JAX_COORDINATOR_ADDRESS": None}, r"JAX_COORDINATOR_ADDRESS: got '', expected HOST:PORT"),
    ],
)
def test_half_a_description_is_refused(change, message):
    environment = {name: value for name, value in (EXPLICIT | change).items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        find_cluster(environment)


def slurm(tasks, node=0, local=0, **variables):
    """The variables of one task of a step on two nodes."""
    per_node = tasks // 2
    return {
        "SLURM_JOB_ID": "1234",
        "SLURM_STEP_ID": "1",
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_NODELIST": "gpu-[07-08]",
        "SLURM_STEP_TASKS_PER_NODE": f"{per_node}(x2)",
        "SLURM_PROCID": str(node * per_node + local),
        "SLURM_LOCALID": str(local),
        "SLURM_NODEID": str(node),
        "SLURM_GPUS_ON_NODE": "8",
        **variables,
    }


def test_a_task_per_node_has_all_devices_of_its_node():
    """JAX alone would give it one: seven of eight would stand idle."""
    found = find_cluster(slurm(2, node=1))
    assert found == Cluster(found.address, 2, 1, None, 16)
    assert found.address.startswith("gpu-07:")
    assert find_cluster(slurm(2, node=0)).address == found.address
    assert find_cluster(slurm(2, node=0, SLURM_STEP_ID="2")).address != found.address


@pytest.mark.parametrize(
    ("tasks", "local", "variables", "devices"),
    [
        (16, 3, {}, (3,)),
        (16, 3, {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, (3,)),
        (4, 1, {}, (4, 5, 6, 7)),
        (16, 3, {"CUDA_VISIBLE_DEVICES": "3"}, None),  # bound by SLURM
        (4, 1, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, None),  # likewise, four each
        (16, 3, {"JAX_LOCAL_DEVICE_IDS": "5"}, None),  # JAX reads that itself
        (16, 3, {"SLURM_GPUS_ON_NODE": "0"}, None),  # a job without GPUs
    ],
)
def test_tasks_of_a_node_share_its_devices(tasks, local, variables, devices):
    assert find_cluster(slurm(tasks, 1, local, **variables)).devices == devices


def test_devices_that_nobody_would_use_are_an_error():
    with pytest.raises(ConfigError, match=r"3 tasks on a node share 8 GPUs.*--ntasks-per-node=1"):
        find_cluster(slurm(6))


def test_slurm_variables_that_contradict_each_other():
    with pytest.raises(ConfigError, match="start with srun"):
        find_cluster(slurm(4, SLURM_STEP_TASKS_PER_NODE="2"))
    with pytest.raises(ConfigError, match="expected counts such as"):
        tasks_per_node("2,x")
    with pytest.raises(ConfigError, match=r"SLURM_PROCID: got 4, expected 0 to 3 \(SLURM_STEP_NUM_TASKS is 4\)"):
        find_cluster(slurm(4, SLURM_PROCID="4"))
    for address in ("", "host", "host:x"):
        with pytest.raises(ConfigError, match=f"JAX_COORDINATOR_ADDRESS: got '{address}', expected HOST:PORT"):
            find_cluster(slurm(4, JAX_COORDINATOR_ADDRESS=address))
    with pytest.raises(ConfigError, match="SLURM_STEP_NODELIST: got '', expected hosts"):
        find_cluster(slurm(4, SLURM_STEP_NODELIST=""))
    incomplete = slurm(4)
    del incomplete["SLURM_STEP_NODELIST"]
    with pytest.raises(ConfigError, match="SLURM_STEP_NODELIST is not set"):
        find_cluster(incomplete)


def test_a_port_that_is_closed_is_one_line(monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)

    def refuse(*_, **__):
        raise RuntimeError("DEADLINE_EXCEEDED: \n no answer")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(distributed, "meet", lambda cluster: None)
    with pytest.raises(ConfigError, match=r"^cluster: process 3 of 4 could not join host:1 \(DEADLINE_EXCEEDED: no an"):
        start(EXPLICIT)


def met(indices, count, patience=1.0):
    """What processes of these numbers are told, all started at once."""
    address, found = f"127.0.0.1:{free_port()}", {}

    def come(place, index):
        try:
            meet(Cluster(address, count, index, patience=patience), say=lambda line: None)
            found[place] = "met"
        except ConfigError as error:
            found[place] = str(error)

    threads = [threading.Thread(target=come, args=entry) for entry in enumerate(indices)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [found.get(place) for place in range(len(indices))]


def test_processes_meet_before_jax_joins_them():
    assert met([2, 0, 1], 3, patience=30) == ["met"] * 3


def test_a_missing_process_is_one_line_in_all_that_came():
    """Left to JAX it is minutes, and an abort."""
    for index, line in zip([0, 2], met([0, 2], 4), strict=True):
        assert line.startswith(
            f"cluster: process {index} of 4: process 1 3 did not come within 1 s; start every process"
        )
        assert "SLURM_STEP_NUM_TASKS" in line
    assert "two processes have the number 1" in "".join(met([0, 1, 1], 3, patience=30))


def test_others_at_the_port_are_not_minded_and_one_that_is_taken_is_said():
    port, done = free_port(), []
    first = threading.Thread(
        target=lambda: done.append(meet(Cluster(f"127.0.0.1:{port}", 2, 0, patience=30), say=lambda line: None))
    )
    first.start()
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            break
        time.sleep(0.02)
    with pytest.raises(ConfigError, match=f"process 0 cannot listen at port {port}"):
        meet(Cluster(f"127.0.0.1:{port}", 2, 0))
    meet(Cluster(f"127.0.0.1:{port}", 2, 1, patience=30))
    first.join(30)
    assert done == [None]


def test_a_person_in_the_shell_of_an_interactive_step_is_alone():
    """`srun --ntasks=8 --pty bash`, and in it a plain command: seven shells would never come."""
    assert find_cluster(slurm(4), by_hand=True) is None
    assert find_cluster(slurm(4), by_hand=False).count == 4
    assert find_cluster(EXPLICIT, by_hand=True).count == 4  # said by the person
    assert find_cluster(slurm(4, SLURM_STEP_TASKS_PER_NODE="4", SLURM_NODEID="0")).patience <= 30


@pytest.mark.parametrize(
    ("input_is_one", "terminal", "parent", "expected"),
    [
        (True, True, "bash", True),
        (False, True, "bash", True),  # `nohup`, or the input from a file
        (False, False, "bash", False),  # a task of srun, by way of a script
        (True, True, "slurmstepd", False),  # the one task of `srun --pty` that has it
    ],
)
def test_who_is_started_by_hand(input_is_one, terminal, parent, expected, monkeypatch, tmp_path):
    (tmp_path / "comm").write_text(f"{parent}\n")
    monkeypatch.setattr(cluster, "Path", lambda name: tmp_path / "comm")
    monkeypatch.setattr(cluster, "_has_terminal", lambda: terminal)
    monkeypatch.setattr(os, "isatty", lambda descriptor: input_is_one)
    assert cluster.started_by_hand() is expected


class Left(Exception):
    """Stands in for the end of the process."""


@pytest.mark.parametrize(
    ("joined", "error", "expected"),
    [(True, ConfigError("config: x: wrong"), Left), (False, ConfigError("config: x: wrong"), SystemExit)],
)
def test_a_mistake_in_one_process_waits_for_no_other(monkeypatch, joined, error, expected):
    """JAX would wait for processes that wait for this one; its code would be that of an abortion."""

    def main(_):
        raise error

    def leave(code):
        raise Left(code)

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: joined)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(expected) as caught:
        cli.run(main, [])
    assert caught.value.args == (2,)


def test_what_ends_well_leaves_together(monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda _: cli.PREEMPTED, [])
    assert caught.value.code == 75
