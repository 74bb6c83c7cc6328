"""Several processes that train as one: starting them, agreeing, and adding up what each has seen.

With one process every function here is trivial and touches no other machine.
"""

import contextlib
import hashlib
import os
import signal
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from ditask_jax.errors import CheckpointError, ConfigError
from ditask_jax.files import locked
from ditask_jax.training.cluster import Cluster, find_cluster, meet, started_by_hand

_START_SECONDS = 300
_LONGEST_MESSAGE = 2048  # bytes


def start(environment: Mapping[str, str] | None = None) -> Cluster | None:
    """Joins the processes that the environment speaks of; before anything asks JAX for a device.

    Returns:
      The cluster, None for a process on its own.

    Raises:
      ConfigError: the description is wrong, or the others cannot be reached.
    """
    cluster = find_cluster(os.environ if environment is None else environment, started_by_hand())
    if cluster is None or jax.distributed.is_initialized():
        return cluster
    meet(cluster)
    # `StopSignal` takes its place; Orbax would ask it from another thread and so move the step that is agreed on.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            cluster.address,
            cluster.count,
            cluster.index,
            cluster.devices,
            # What JAX reads from SLURM gives a task one device, see `cluster`.
            cluster_detection_method="deactivate",
            initialization_timeout=_START_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"cluster: process {cluster.index} of {cluster.count} could not join {cluster.address} "
            f"({' '.join(str(error).split())[:200]}); check that every process was started and that this address and "
            "port are open between the nodes"
        ) from error
    return cluster


def is_first() -> bool:
    """Whether this process writes what is written once: logs, figures, checkpoints."""
    return jax.process_index() == 0


def share() -> dict[str, int]:
    """Which block of every batch this process reads, as arguments of `train_batches` and `eval_batches`."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def own_rows(array: np.ndarray) -> np.ndarray:
    """This process's block of the rows of a global array that it holds whole.

    >>> own_rows(np.arange(4)).tolist()
    [0, 1, 2, 3]
    """
    rows = len(array) // jax.process_count()
    return array[rows * jax.process_index() : rows * (jax.process_index() + 1)]


def gather(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, stacked; of equal shape and dtype everywhere, exact to the last bit.

    >>> gather(np.array([2.0, 3.0])).tolist()
    [[2.0, 3.0]]
    """
    array = np.asarray(array)
    if jax.process_count() == 1:
        return array[None]
    from jax.experimental import multihost_utils

    # As bytes: on its way through devices a 64-bit number would become one of 32 bits.
    found = multihost_utils.process_allgather(np.frombuffer(array.tobytes(), np.uint8))
    return np.frombuffer(np.asarray(found).tobytes(), array.dtype).reshape(jax.process_count(), *array.shape)


def add_up(total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds the totals of all processes, in their order.

    >>> add_up({"hits": np.array([1, 2])})
    {'hits': array([1, 2])}
    """
    return {name: gather(value).sum(0, dtype=value.dtype) for name, value in sorted(total.items())}


def wait_for_all() -> None:
    """Returns once every process has come here; the last thing a command does, as the first process has most to do.

    JAX waits at the end as well, but only for minutes, and then aborts them all.
    """
    gather(np.zeros(1, np.uint8))


def agree(what: str, value: str, remedy: str) -> None:
    """Makes sure that every process has the same value of something.

    Raises:
      CheckpointError: they differ; raised by every process.
    """
    if jax.process_count() == 1:
        return
    digests = gather(np.frombuffer(hashlib.sha256(value.encode("utf-8", "backslashreplace")).digest(), np.uint8))
    others = [index for index, digest in enumerate(digests) if not np.array_equal(digest, digests[0])]
    if others:
        raise CheckpointError(
            f"cluster: process {others[0]} has another {what} than process 0 "
            f"(process {jax.process_index()} has {value[:80]}); {remedy}"
        )


@contextlib.contextmanager
def locked_by_first(path: str | os.PathLike, field: str, what: str, remedy: str, **options) -> Iterator[None]:
    """`ditask_jax.files.locked` for all processes of one job: the first one holds the file, or all are refused.

    Raises:
      CheckpointError: another job holds it, or the first process cannot write it; raised by every process.
    """
    with contextlib.ExitStack() as stack:
        problem: CheckpointError | OSError | None = None
        if is_first():
            try:
                stack.enter_context(locked(path, field, what, remedy, CheckpointError, **options))
            except (CheckpointError, OSError) as error:
                problem = error
        text = tell_all("" if problem is None else str(problem))
        if problem is not None:
            raise problem
        if text:
            raise CheckpointError(text)
        yield


def tell_all(text: str) -> str:
    """The text that the first process has; every process calls it.

    >>> tell_all("done")
    'done'
    """
    if jax.process_count() == 1:
        return text
    room = np.zeros(_LONGEST_MESSAGE, np.uint8)
    content = np.frombuffer(text.encode("utf-8", "replace")[:_LONGEST_MESSAGE], np.uint8)
    room[: len(content)] = content
    return gather(room)[0].tobytes().rstrip(b"\0").decode("utf-8", "replace")


class StopSignal:
    """While entered, SIGTERM asks to stop after a step instead of killing the process.

    Attributes:
      asked: whether this process was asked to. Of several processes, one that was stops all of them after the same
        step: each tells the others by its next step, see `InFlight`.
    """

    def __init__(self):
        self.asked = False
        self._before = None

    def __enter__(self) -> "StopSignal":
        try:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        except ValueError:
            self._before = None  # not the main thread: signals stay with whoever owns it
        return self

    def _ask(self, *_):
        self.asked = True

    def __exit__(self, *_):
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
