"""Running jobs on this machine: each with its share of it, so many at once; one that fails does not stop the others."""

import contextlib
import dataclasses
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ditask_jax.cli import PREEMPTED
from ditask_jax.errors import CheckpointError, ConfigError, format_number
from ditask_jax.files import EVALUATION_FORMAT, parse_json
from ditask_jax.sweeps.loading import Job

# Sharing one machine out: which cores or accelerators each of several trainings at once may use.


_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_MEMORY = 0.9  # of an accelerator, shared out among the trainings on it


@dataclasses.dataclass(frozen=True)
class Share:
    """What one training may use.

    Attributes:
        cores: Processor cores; empty: all of them.
        devices: Accelerators, as `CUDA_VISIBLE_DEVICES` names them; empty: none, or whatever JAX finds.
        fraction: Part of the memory of its accelerators; None: as JAX does by itself.
    """

    cores: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    fraction: float | None = None

    def environment(self) -> dict[str, str]:
        """Variables that hold a training to this share."""
        found = {"CUDA_VISIBLE_DEVICES": ",".join(self.devices)} if self.devices else {}
        return found | ({} if self.fraction is None else {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{self.fraction:.2f}"})

    def __str__(self) -> str:
        if self.devices:
            part = "" if self.fraction is None else f" ({self.fraction:.0%} of its memory)"
            return f"GPU {','.join(self.devices)}{part}"
        return f"cores {','.join(map(str, self.cores))}" if self.cores else "all cores"


def find_devices(environment: Mapping[str, str]) -> tuple[str, ...]:
    """NVIDIA GPUs that trainings started in this environment would use; none where JAX is told to stay on the CPU.

    >>> find_devices({"CUDA_VISIBLE_DEVICES": "2,3"})
    ('2', '3')
    >>> find_devices({"CUDA_VISIBLE_DEVICES": "2,3", "JAX_PLATFORMS": "cpu"})
    ()
    """
    if environment.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return ()
    if "CUDA_VISIBLE_DEVICES" in environment:
        named = environment["CUDA_VISIBLE_DEVICES"].split(",")
        return tuple(name.strip() for name in named if name.strip() not in ("", "-1"))
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is None or not any(importlib.util.find_spec(name) for name in _PLUGINS):
        return ()  # no GPU, or a JAX that knows of none
    options = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "check": False}
    listed = subprocess.run([program, "-L"], **options).stdout.splitlines()
    return tuple(str(number) for number, _ in enumerate(line for line in listed if line.startswith("GPU ")))


def find_cores() -> tuple[int, ...]:
    """Cores that this process may use; empty where the system does not tell."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def make_shares(jobs: int | None, devices: Sequence[str] = (), cores: Sequence[int] = ()) -> list[Share]:
    """Shares of a machine for so many trainings at once.

    Args:
        jobs: How many; None: one per accelerator, or one alone on a machine without.
        devices: Its accelerators.
        cores: Its cores; trainings on accelerators are not held to cores.

    Returns:
        One share per training. Each gets as many accelerators or cores as all others; where there are more trainings
        than that, several share one.

    Raises:
        ConfigError: Fewer than one.

    >>> [str(share) for share in make_shares(2, cores=(0, 1, 2, 3, 4))]
    ['cores 0,1', 'cores 2,3']
    >>> [str(share) for share in make_shares(None, devices=("0", "1"), cores=(0, 1))]
    ['GPU 0', 'GPU 1']
    >>> [str(share) for share in make_shares(3, devices=("0", "1"))][-1]
    'GPU 0 (45% of its memory)'
    """
    if jobs is None:
        jobs = max(len(devices), 1)
    if jobs < 1:
        raise ConfigError(f"command line: --jobs: got {jobs}, expected at least 1")
    if devices:
        together = -(-jobs // len(devices))
        fraction = None if together == 1 else _MEMORY / together
        return [Share(devices=part, fraction=fraction) for part in _parts(devices, jobs)]
    if jobs == 1 or not cores:
        return [Share()] * jobs
    return [Share(cores=part) for part in _parts(cores, jobs)]


def _parts(items: Sequence, count: int) -> list[tuple]:
    """Equal parts, so that every training computes alike; a remainder stays idle."""
    each = len(items) // count
    if each == 0:
        return [(items[number % len(items)],) for number in range(count)]
    return [tuple(items[number * each : (number + 1) * each]) for number in range(count)]


@contextlib.contextmanager
def held_to(cores: Sequence[int]) -> Iterator[None]:
    """Processes started inside are held to these cores; this thread itself is free again afterwards."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# How far the run of a point has come, from the files in its folder.


FINISHED, UNFINISHED, NEW = "finished", "unfinished", "new"


def state_of(job: Job) -> str:
    """How far a point is: finished where `evaluation.json` has the scores of its last step, unfinished, or new."""
    evaluation = read_evaluation(job)
    if evaluation is not None and evaluation.get("step") == total_steps(job):
        return FINISHED
    return UNFINISHED if (job.workdir / "config.json").is_file() else NEW


def read_evaluation(job: Job) -> dict | None:
    """Content of a point's `evaluation.json`; None where there is none that can be read.

    Raises:
        CheckpointError: It is of a newer format.
    """
    try:
        found = parse_json((job.workdir / "evaluation.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    format_number(found.get("format"), EVALUATION_FORMAT, f"run: '{job.workdir / 'evaluation.json'}'", CheckpointError)
    return found


def total_steps(job: Job) -> int:
    """Optimiser steps of the whole training; opens the data where the configuration counts epochs."""
    if job.config.total_steps is not None:
        return job.config.total_steps
    # Imported late: JAX and the model code come with it.
    from ditask_jax.training.experiment import build_source, training_length

    return training_length(job.config, len(build_source(job.config, "train")))[1]


def score_of(job: Job, metric: str) -> float | None:
    """A number of a point's evaluation.

    Args:
        job: The point.
        metric: "delta_m", or task and metric such as "semseg/mIoU".
    """
    evaluation = read_evaluation(job) or {}
    task, slash, name = metric.partition("/")
    found = evaluation.get("scores", {}).get(task, {}).get(name) if slash else evaluation.get(metric)
    return found if isinstance(found, int | float) else None


def has_unknown_scores(job: Job) -> bool:
    """Whether a score of a point's evaluation is unknown: nothing was labelled, or predictions are not finite."""
    scores = (read_evaluation(job) or {}).get("scores", {})
    return any(value is None for found in scores.values() for value in found.values())


# Running jobs: a process each, so many at once.


LOG_NAME = "train.log"
FAILED, STOPPED, BUSY = "failed", "stopped", "busy"
_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        job: The job.
        state: "finished", "failed", "stopped" (told to; it saved) or "busy" (another process trains it).
        seconds: How long it ran.
        message: Why it failed.
    """

    job: Job
    state: str
    seconds: float = 0.0
    message: str = ""


class Runner:
    """Runs jobs, so many at once as there are shares of the machine.

    SIGINT and SIGTERM are passed on as SIGTERM, on which a training saves and ends; a second SIGINT kills.

    Args:
        shares: One per training at a time.
        environment: Of the trainings; default: this process's.
        command: Of a job; default: its training.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        environment: Mapping[str, str] | None = None,
        command: Callable[[Job], Sequence[str]] = Job.command,
    ):
        self.shares = list(shares)
        self.stopping = False
        self._environment = dict(os.environ if environment is None else environment)
        # Each training is a process on its own. Without a terminal it would take itself for a task of the sweep's step.
        self._environment.pop("SLURM_STEP_NUM_TASKS", None)
        self._command = command
        self._running: list[_Running] = []

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Starts the jobs in their order; yields each outcome when it is there.

        Args:
            jobs: What to run; the next one is asked for when there is room for it.
        """
        waiting, free = iter(jobs), list(self.shares)
        with _Signals(self._asked_to_stop):
            try:
                while True:
                    while free and not self.stopping and (job := next(waiting, None)) is not None:
                        started = self._start(job, free[0])
                        if isinstance(started, Outcome):
                            yield started
                            continue
                        free.pop(0)
                        self._running.append(started)
                        if self.stopping:  # a signal came while it was being started
                            started.process.terminate()
                    if not self._running:
                        return
                    time.sleep(_POLL_SECONDS)
                    for running in [entry for entry in self._running if entry.process.poll() is not None]:
                        self._running.remove(running)
                        free.append(running.share)
                        yield running.outcome(self.stopping)
            finally:
                # Whoever stops listening, by an error or on purpose, leaves no process behind.
                self._end_all()

    def _start(self, job: Job, share: Share) -> "_Running | Outcome":
        job.workdir.mkdir(parents=True, exist_ok=True)
        path = job.workdir / LOG_NAME
        with path.open("ab") as log:
            if not hold(log):
                return Outcome(job, BUSY)
            command = list(self._command(job))
            head = f"\n== {time.strftime('%Y-%m-%d %H:%M:%S')}, {share}\n$ {shlex.join(command)}\n"
            log.write(head.encode("utf-8", "surrogateescape"))
            log.flush()
            offset = log.tell()
            environment = {**self._environment, **share.environment()}
            with held_to(share.cores):
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    # Ctrl-C reaches the sweep alone, which asks its trainings to save. A group and no session, so
                    # that they stay in the scheduling group that the sweep was started in.
                    process_group=0,
                )
        return _Running(job, share, process, path, offset, time.monotonic())

    def _asked_to_stop(self, number: int) -> None:
        again, self.stopping = self.stopping, True
        for running in self._running:
            if not again:
                running.process.terminate()
            elif number == signal.SIGINT:
                running.kill()
        if not again and self._running:
            print(
                f"stopping: {len(self._running)} training(s) save and end; Ctrl-C again ends them at once",
                file=sys.stderr,
                flush=True,
            )

    def _end_all(self) -> None:
        for running in self._running:
            running.process.terminate()
        for running in self._running:
            running.process.wait()
        self._running.clear()


@dataclasses.dataclass(frozen=True, eq=False)
class _Running:
    job: Job
    share: Share
    process: subprocess.Popen
    log: Path
    offset: int  # where in the log this start begins
    begin: float

    def kill(self) -> None:
        """The whole group: processes that read data are part of it."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it has ended meanwhile

    def outcome(self, stopping: bool) -> Outcome:
        code, seconds = self.process.returncode, time.monotonic() - self.begin
        if code == 0 and state_of(self.job) == FINISHED:
            return Outcome(self.job, FINISHED, seconds)
        if code == PREEMPTED or (stopping and code != 0):
            return Outcome(self.job, STOPPED, seconds)
        last = last_line(self.log, self.offset)
        if code == 0:
            last = f"ended without scores of step {total_steps(self.job)}: {last}"
        elif code < 0:
            last = f"killed by {_signal_name(-code)}: {last}"
        return Outcome(self.job, FAILED, seconds, f"{last} (exit code {code}, see {self.log})")


class _Signals:
    """While entered, signals that ask to end call a function instead."""

    def __init__(self, call: Callable[[int], None]):
        self._call = call
        self._before: dict[int, object] = {}

    def __enter__(self) -> "_Signals":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            try:
                self._before[number] = signal.signal(number, lambda number, _: self._call(number))
            except ValueError:
                break  # not the main thread: signals stay with whoever owns it
        return self

    def __exit__(self, *_) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)


def last_line(path: Path, offset: int = 0) -> str:
    """The last line of a log that is not empty, from an offset on."""
    with path.open("rb") as file:
        file.seek(max(offset, path.stat().st_size - 65536))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def hold(file) -> bool:
    """Locks an open file for as long as it, or a process that inherits it, lives; False where another one holds it."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        # The training inherits the open file and with it the lock, so it outlives a sweep that is killed.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
