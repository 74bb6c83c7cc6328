"""Running jobs on this machine: a process each, so many at once; one that fails does not stop the others."""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ditask_jax.cli import PREEMPTED
from ditask_jax.sweeps.loading import Job
from ditask_jax.sweeps.machine import Share, held_to
from ditask_jax.sweeps.states import FINISHED, state_of, total_steps

LOG_NAME = "train.log"
CACHE_NAME = ".compiled"
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
        environment: Of the trainings; `JAX_COMPILATION_CACHE_DIR` defaults to a folder beside them.
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
            cache = str((job.workdir.parent / CACHE_NAME).absolute())
            environment = {"JAX_COMPILATION_CACHE_DIR": cache, **self._environment, **share.environment()}
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
