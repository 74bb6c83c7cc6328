"""Who takes part in a training of several processes, read from the environment; nothing here needs JAX.

Two sources are understood: the variables `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID` and `JAX_COORDINATOR_ADDRESS` (where a
process number is missing, `JOB_COMPLETION_INDEX`, which Kubernetes gives to the pods of an indexed job), and those that
SLURM's `srun` gives to its tasks. A process on its own needs none of them and sees every device of its machine.

JAX's own reading of SLURM gives each task one device: right for a task per GPU, but with a task per node seven of eight
GPUs stay idle without a word. So devices are shared out here instead.

Before JAX joins the processes they meet here: JAX itself would wait for one that is missing for minutes and then abort.
"""

import contextlib
import dataclasses
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ditask_jax.errors import ConfigError

_COUNT, _INDEX, _ADDRESS = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS"
_HELLO = "ditask_jax"
_FIRST_PORT, _PORTS = 61440, 4096  # the upper end of the range that no service is registered in


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The place of this process among several.

    Attributes:
      address: HOST:PORT where process 0 listens.
      count: number of processes.
      index: number of this one.
      devices: which of the devices visible here are this process's; None: all of them.
      expected: how many devices all processes should have between them; None: nobody says.
      patience: seconds to wait for the others: tasks that SLURM starts on one node come at once, pods may not.
    """

    address: str
    count: int
    index: int
    devices: tuple[int, ...] | None = None
    expected: int | None = None
    patience: float = dataclasses.field(default=300.0, repr=False, compare=False)


def find_cluster(environment: Mapping[str, str], by_hand: bool = False) -> Cluster | None:
    """The cluster that an environment describes, None for a process on its own.

    A process that a person has started in the shell of an interactive step (`srun --pty bash`) is on its own, although
    its environment is that of one task of several: in the others nothing but shells are waiting.

    Args:
      environment: the variables.
      by_hand: whether a person has started it, see `started_by_hand`.

    Raises:
      ConfigError: half a description, or one that contradicts itself.

    >>> find_cluster({})
    >>> given = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1", "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234"}
    >>> find_cluster(given)
    Cluster(address='10.0.0.1:1234', count=2, index=1, devices=None, expected=None)
    """
    if _COUNT in environment or _INDEX in environment:
        return _explicit(environment)
    if "SLURM_STEP_NUM_TASKS" in environment and not by_hand:
        return _slurm(environment)
    return None


def started_by_hand() -> bool:
    """Whether there is a terminal, whatever the input is (`nohup`), and the parent is not SLURM's that starts tasks."""
    try:
        if not os.isatty(0) and not _has_terminal():
            return False
        return Path(f"/proc/{os.getppid()}/comm").read_text(encoding="utf-8").strip() != "slurmstepd"
    except OSError:
        return True


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _explicit(environment: Mapping[str, str]) -> Cluster | None:
    count = _number(environment, _COUNT, least=1)
    if count == 1:
        return None
    index = _number(environment, _INDEX if _INDEX in environment else "JOB_COMPLETION_INDEX", missing=_INDEX)
    _check_index(_INDEX, index, _COUNT, count)
    return Cluster(_address(environment.get(_ADDRESS, ""), count), count, index)


def _check_index(name: str, index: int, counted: str, count: int) -> None:
    if index >= count:
        raise ConfigError(f"cluster: {name}: got {index}, expected 0 to {count - 1} ({counted} is {count})")


def _address(text: str, count: int) -> str:
    if not re.fullmatch(r".+:\d+", text):
        raise ConfigError(
            f"cluster: {_ADDRESS}: got {text!r}, expected HOST:PORT of process 0, the same in all {count} processes"
        )
    return text


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    count = _number(environment, "SLURM_STEP_NUM_TASKS", least=1)
    if count == 1:
        return None
    if _ADDRESS in environment:
        address = _address(environment[_ADDRESS], count)
    else:
        # Job and step in the port: the steps of a job, and jobs that share a node, do not meet.
        job, step = _number(environment, "SLURM_JOB_ID"), _step_number(environment)
        host = first_host(_text(environment, "SLURM_STEP_NODELIST"))
        if not host:
            raise ConfigError(
                f"cluster: SLURM_STEP_NODELIST: got {environment['SLURM_STEP_NODELIST']!r}, expected hosts"
            )
        address = f"{host}:{_FIRST_PORT + (job * 7 + step) % _PORTS}"
    index, node = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_NODEID")
    _check_index("SLURM_PROCID", index, "SLURM_STEP_NUM_TASKS", count)
    per_node = tasks_per_node(_text(environment, "SLURM_STEP_TASKS_PER_NODE"))
    if node >= len(per_node) or sum(per_node) != count:
        raise ConfigError(
            f"cluster: SLURM_STEP_TASKS_PER_NODE: got {environment['SLURM_STEP_TASKS_PER_NODE']!r} for {count} tasks, "
            f"seen from node {node}; start with srun"
        )
    on_node = _optional(environment, "SLURM_GPUS_ON_NODE")
    expected = None if on_node is None else on_node * len(per_node)
    patience = 30.0 if len(per_node) == 1 else 300.0
    return Cluster(address, count, index, _share(environment, per_node[node], on_node), expected, patience)


def _share(environment: Mapping[str, str], tasks: int, on_node: int | None) -> tuple[int, ...] | None:
    """Which of the visible GPUs are this task's: those of its node split evenly, unless SLURM has split them."""
    if tasks == 1 or "JAX_LOCAL_DEVICE_IDS" in environment:
        return None  # all, or what the variable says
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    visible = on_node if shown is None else len([name for name in shown.split(",") if name])
    if visible is None or visible < tasks or (on_node is not None and visible < on_node):
        return None  # bound to the task already (--gpus-per-task), or no GPUs at all
    if visible % tasks:
        raise ConfigError(
            f"cluster: {tasks} tasks on a node share {visible} GPUs, which leaves some without work; use "
            "--ntasks-per-node=1 (all GPUs in one process) or as many tasks as GPUs"
        )
    each, local = visible // tasks, _number(environment, "SLURM_LOCALID")
    return tuple(range(local * each, (local + 1) * each))


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def meet(cluster: Cluster, say: Callable[[str], None] = _print) -> None:
    """Returns once all processes of a cluster have come; the first listens at the address, where JAX will afterwards.

    Args:
      cluster: the place of this process.
      say: told whom the first one waits for.

    Raises:
      ConfigError: some did not come in time, two have one number, or the address cannot be used; raised by all that
        came.
    """
    end = time.monotonic() + cluster.patience
    if cluster.index == 0:
        _receive(cluster, end, say)
    else:
        _visit(cluster, end)


def _receive(cluster: Cluster, end: float, say: Callable[[str], None]) -> None:
    port = int(cluster.address.rpartition(":")[2])
    guests: dict[int, socket.socket] = {}
    next_word = time.monotonic() + 5
    problem = ""
    with contextlib.ExitStack() as stack:
        try:
            door = stack.enter_context(socket.create_server(("", port), backlog=512))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"cluster: process 0 cannot listen at port {port} ({getattr(error, 'strerror', None) or error}); end "
                f"what does, or set {_ADDRESS} to another port"
            ) from None
        door.settimeout(0.2)
        while len(guests) < cluster.count - 1 and not problem:
            missing = _numbers(set(range(1, cluster.count)) - guests.keys())
            if time.monotonic() > end:
                problem = f"{missing} did not come within {cluster.patience:.0f} s"
                break
            if time.monotonic() > next_word:
                say(f"cluster: process 0 of {cluster.count} waits at {cluster.address} for {missing}")
                next_word = end + 1
            with contextlib.suppress(OSError):  # nobody there, or one that left at once
                guest = stack.enter_context(door.accept()[0])
                guest.settimeout(2)
                problem = _greet(guest, cluster, guests)
        for guest in guests.values():
            with contextlib.suppress(OSError):
                guest.sendall(f"{problem}\n".encode())
        for guest in guests.values():
            with contextlib.suppress(OSError):
                guest.recv(1)  # they hang up first, so that the port is free at once
    if problem:
        raise _left_alone(cluster, problem)


def _greet(guest: socket.socket, cluster: Cluster, guests: dict[int, socket.socket]) -> str:
    """Takes the number of one that has come and returns what is wrong with it; other programs are not minded."""
    words = guest.makefile("r", encoding="utf-8", errors="replace").readline(80).split()
    if len(words) != 3 or words[0] != _HELLO or not (words[1] + words[2]).isdecimal():
        return ""
    count, index = int(words[1]), int(words[2])
    problem = f"two processes have the number {index}" if index in guests or index == 0 else ""
    if count != cluster.count:
        problem = f"process {index} is one of {count}, process 0 one of {cluster.count}"
    # Not over the first of that number: both are to be told.
    guests[-1 if problem else index] = guest
    return problem


def _visit(cluster: Cluster, end: float) -> None:
    host, _, port = cluster.address.rpartition(":")
    reason = "no answer"
    while time.monotonic() < end + 5:  # the first may have started later, and has more to say
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as line:
                line.sendall(f"{_HELLO} {cluster.count} {cluster.index}\n".encode())
                line.settimeout(max(end + 10 - time.monotonic(), 1))
                answer = line.makefile("r", encoding="utf-8", errors="replace").readline()
        except (OSError, OverflowError, UnicodeError) as error:
            answer, reason = "", getattr(error, "strerror", None) or str(error)
        if answer == "\n":
            return
        if answer:
            raise _left_alone(cluster, answer.strip())
        time.sleep(0.2)
    raise _left_alone(cluster, f"process 0 is not at {cluster.address} ({reason})")


def _left_alone(cluster: Cluster, problem: str) -> ConfigError:
    return ConfigError(
        f"cluster: process {cluster.index} of {cluster.count}: {problem}; start every process by the same command "
        "(with srun under SLURM) and open its address between the nodes, or, for a process on its own, unset "
        f"SLURM_STEP_NUM_TASKS and {_COUNT}"
    )


def _numbers(numbers: set[int]) -> str:
    shown = " ".join(map(str, sorted(numbers)[:8]))
    return f"process {shown}" + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def first_host(nodes: str) -> str:
    """The first host of a SLURM node list.

    >>> [first_host(text) for text in ("node001", "a7,b9", "node[001-015],x", "gpu-[3,7-9].cluster", "r[1-2]n[05-09]")]
    ['node001', 'a7', 'node001', 'gpu-3.cluster', 'r1n05']
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)[0]
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first)


def tasks_per_node(text: str) -> list[int]:
    """SLURM's short form of the number of tasks on each node.

    >>> tasks_per_node("8(x2),4")
    [8, 8, 4]
    """
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if not match:
            raise ConfigError(f"cluster: SLURM_STEP_TASKS_PER_NODE: got {text!r}, expected counts such as '8(x2),4'")
        found += [int(match[1])] * int(match[2] or 1)
    return found


def _step_number(environment: Mapping[str, str]) -> int:
    return _optional(environment, "SLURM_STEP_ID") or 0


def _optional(environment: Mapping[str, str], name: str) -> int | None:
    return _number(environment, name) if name in environment else None


def _text(environment: Mapping[str, str], name: str) -> str:
    if name not in environment:
        raise ConfigError(f"cluster: {name} is not set in this task of several; start it with srun")
    return environment[name]


def _number(environment: Mapping[str, str], name: str, least: int = 0, missing: str | None = None) -> int:
    if name not in environment:
        raise ConfigError(
            f"cluster: {missing or name} is not set; a training of several processes needs {_COUNT}, {_INDEX} and "
            f"{_ADDRESS} in each, or srun"
        )
    try:
        value = int(environment[name])
    except ValueError:
        value = least - 1
    if value < least:
        raise ConfigError(f"cluster: {name}: got {environment[name]!r}, expected a number from {least} on")
    return value
