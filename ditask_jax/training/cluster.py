"""Who takes part in a training of several processes, read from the environment; nothing here needs JAX.

Two sources are understood: the variables `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID` and `JAX_COORDINATOR_ADDRESS` (where a
process number is missing, `JOB_COMPLETION_INDEX`, which Kubernetes gives to the pods of an indexed job), and those that
SLURM's `srun` gives to its tasks. A process on its own needs none of them and sees every device of its machine.

JAX's own reading of SLURM gives each task one device: right for a task per GPU, but with a task per node seven of eight
GPUs stay idle without a word. So devices are shared out here instead.
"""

import dataclasses
import re
from collections.abc import Mapping

from ditask_jax.errors import ConfigError

_COUNT, _INDEX, _ADDRESS = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS"
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
    """

    address: str
    count: int
    index: int
    devices: tuple[int, ...] | None = None
    expected: int | None = None


def find_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """The cluster that an environment describes, None for a process on its own.

    Raises:
      ConfigError: half a description, or one that contradicts itself.

    >>> find_cluster({})
    >>> given = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1", "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234"}
    >>> find_cluster(given)
    Cluster(address='10.0.0.1:1234', count=2, index=1, devices=None, expected=None)
    """
    if _COUNT in environment or _INDEX in environment:
        return _explicit(environment)
    if "SLURM_STEP_NUM_TASKS" in environment:
        return _slurm(environment)
    return None


def _explicit(environment: Mapping[str, str]) -> Cluster | None:
    count = _number(environment, _COUNT, least=1)
    if count == 1:
        return None
    index = _number(environment, _INDEX if _INDEX in environment else "JOB_COMPLETION_INDEX", missing=_INDEX)
    if index >= count:
        raise ConfigError(f"cluster: {_INDEX}: got {index}, expected 0 to {count - 1} ({_COUNT} is {count})")
    address = environment.get(_ADDRESS, "")
    if not re.fullmatch(r".+:\d+", address):
        raise ConfigError(
            f"cluster: {_ADDRESS}: got {address!r}, expected HOST:PORT of process 0, the same in all {count} processes"
        )
    return Cluster(address, count, index)


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    count = _number(environment, "SLURM_STEP_NUM_TASKS", least=1)
    if count == 1:
        return None
    address = environment.get(_ADDRESS)
    if address is None:
        # Job and step in the port: the steps of a job, and jobs that share a node, do not meet.
        job, step = _number(environment, "SLURM_JOB_ID"), _step_number(environment)
        host = first_host(_text(environment, "SLURM_STEP_NODELIST"))
        address = f"{host}:{_FIRST_PORT + (job * 7 + step) % _PORTS}"
    index, node = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_NODEID")
    per_node = tasks_per_node(_text(environment, "SLURM_STEP_TASKS_PER_NODE"))
    if node >= len(per_node) or sum(per_node) != count:
        raise ConfigError(
            f"cluster: SLURM_STEP_TASKS_PER_NODE: got {environment['SLURM_STEP_TASKS_PER_NODE']!r} for {count} tasks, "
            f"seen from node {node}; start with srun"
        )
    on_node = _optional(environment, "SLURM_GPUS_ON_NODE")
    expected = None if on_node is None else on_node * len(per_node)
    return Cluster(address, count, index, _share(environment, per_node[node], on_node), expected)


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
