"""The checks of the preflight that compile and run, and running all checks one after another."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from ditask_jax.errors import CheckpointError, ConfigError, DitaskError
from ditask_jax.preflight.preflight_checks import (
    Setting,
    check_data,
    check_devices,
    check_versions,
    check_weights,
    check_workdir,
    device_memory,
    made,
    without_downloads,
)
from ditask_jax.training.checkpoints import Checkpointer
from ditask_jax.training.distributed import gather, is_first, wait_for_all
from ditask_jax.training.profiling import program_memory
from ditask_jax.training.sharding import replicated
from ditask_jax.training.trainer import Trainer

# The checks of the preflight that compile and run: the model, its memory, one step, one save and restore.


_FOLDER = ".preflight"
_NAMES = ("trainable", "opt_state", "stats")
_LESS = "lower batch_size, raise optimizer.accumulate, set remat=blocks or compute_dtype=bfloat16"


def check_model(setting: Setting) -> str:
    """The model is built, filled and wrapped, and every field of the configuration can be used."""
    trainer = setting.trainer = Trainer(without_downloads(setting.config))
    plan = trainer.experiment.plan
    return (
        f"{setting.config.backbone.name}, {plan.method}: {plan.trainable_total:,} of {plan.total:,} parameters train; "
        f"{trainer.total_steps} steps"
    )


def check_memory(setting: Setting) -> str:
    """The compiled step fits into each device."""
    begin = time.perf_counter()
    lowered, arguments = setting.trainer.lower_step()
    program = lowered.compile()
    setting.program = program, arguments
    compiled = f"compiled in {time.perf_counter() - begin:.0f} s"
    needed = program_memory(program)["together"]
    if needed is None:
        return f"the compiler gives no estimate here; {compiled}"
    limit, where = memory_limit()
    text = f"{needed / 2**30:.2f} GiB per device for a step"
    if limit is None:
        return f"{text} (what is there is not known); {compiled}"
    if needed > limit:
        raise ConfigError(f"memory: {text}, and {where} has {limit / 2**30:.2f} GiB; {_LESS}, or take more devices")
    return f"{text}, of {limit / 2**30:.2f} GiB ({where}); {compiled}"


def check_step(setting: Setting) -> str:
    """One step of the training that will follow, on its first batch, gives finite numbers."""
    program, arguments = setting.program
    begin = time.perf_counter()
    try:
        *state, metrics = program(*arguments)
        metrics = jax.device_get(metrics)
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        remedy = _LESS if "RESOURCE_EXHAUSTED" in reason else "set NCCL_DEBUG=INFO to see the network's side of it"
        raise ConfigError(f"step: the devices could not run it ({reason}); {remedy}") from error
    seconds = time.perf_counter() - begin
    setting.trainer.state = tuple(state)
    finite = bool(metrics.pop("finite", True))
    bad = [name for name, value in metrics.items() if not np.isfinite(value)]
    if bad or not finite:
        what = ", ".join(bad) or "the update of the parameters"
        raise ConfigError(
            f"step: {what} is not finite on the first batch; look at its labels, or lower optimizer.learning_rate"
        )
    return f"loss {float(metrics['loss']):.4g}, gradient {float(metrics['grad_norm']):.4g}, {seconds:.2f} s"


def check_checkpoint(setting: Setting) -> str:
    """What was saved by the first process comes back in all, bit for bit."""
    trainer = setting.trainer
    state = dict(zip(_NAMES, trainer.state, strict=True))
    with _scratch(setting.workdir) as folder:
        begin = time.perf_counter()
        with Checkpointer(folder) as checkpointer:
            checkpointer.save(1, state, {"backbone": trainer.fingerprint()}, block=True)
            wait_for_all()  # written; now all may read
            saved, begin = time.perf_counter() - begin, time.perf_counter()
            back, _ = checkpointer.restore(1, state, replicated(trainer.mesh))
            restored = time.perf_counter() - begin
        equal = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), state, back)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        wait_for_all()  # read by all; now it may go
    if not all(jax.tree.leaves(equal)):
        raise CheckpointError(
            f"checkpoint: what came back from '{folder}' is not what was saved; do not train on this file system"
        )
    return f"{size / 2**20:.1f} MiB, saved in {saved:.1f} s, restored in {restored:.1f} s, equal bit for bit"


@contextlib.contextmanager
def _scratch(workdir: Path | None) -> Iterator[Path]:
    """A folder beside the run's checkpoints, or a temporary one; gone afterwards."""
    if workdir is None:
        if jax.process_count() > 1:
            raise CheckpointError("checkpoint: several processes need a folder that all of them see; give --workdir")
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    folder = workdir / _FOLDER
    with made(workdir):
        try:
            yield folder
        finally:
            if is_first():
                shutil.rmtree(folder, ignore_errors=True)


def memory_limit() -> tuple[int | None, str]:
    """Bytes that a step may take on one device, and what says so."""
    device = jax.local_devices()[0]
    limit = device_memory(device)
    if limit is not None:
        return limit, f"each {device.device_kind}"
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None, ""
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    count = jax.local_device_count()
    return (None, "") if available is None else (available // count, f"this machine, for each of {count} devices,")


# Running the checks of the preflight one after another, a line each.


Check = Callable[[Setting], str]

CHECKS: tuple[tuple[Check, tuple[str, ...]], ...] = (
    (check_versions, ()),
    (check_devices, ()),
    (check_workdir, ("devices",)),
    (check_weights, ("devices",)),
    (check_data, ("devices",)),
    (check_model, ("versions", "weights", "data")),
    (check_memory, ("model",)),
    (check_step, ("memory",)),
    (check_checkpoint, ("step", "workdir")),
)
"""Every check with the names of those that must have passed before it."""

_REMEDY = "check the path, its permissions and the free space"


def name_of(check: Check) -> str:
    """What a check is called in the report.

    >>> name_of(check_weights)
    'weights'
    """
    return check.__name__.removeprefix("check_")


def preflight(setting: Setting, say: Callable[[str], None], checks: Sequence = CHECKS) -> list[str]:
    """Runs the checks; one that builds on a failed one is not tried.

    Of several processes all run every check, and one that fails in any has failed. Only what they find themselves is
    said: the first process says what passed, every process what failed in it.

    Args:
      setting: what to check.
      say: gets one line per check.
      checks: pairs as in `CHECKS`.

    Returns:
      Names of the checks that failed.
    """
    first = setting.cluster is None or setting.cluster.index == 0
    failed: list[str] = []
    left_out: list[str] = []
    for check, needs in checks:
        name = name_of(check)
        missing = [need for need in needs if need in failed or need in left_out]
        if missing:
            left_out.append(name)
            if first:
                say(f"-     {name:<10} not tried, {' and '.join(missing)} must pass first")
            continue
        problem = text = ""
        try:
            text = check(setting)
        except DitaskError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{name}: {error.filename or 'file system'}: {error.strerror or error}; {_REMEDY}"
        elsewhere = [] if check is check_versions else _failed_in(bool(problem))
        if problem:
            say(f"FAIL  {name:<10} {' '.join(problem.split())}")
        elif elsewhere and first:
            say(f"FAIL  {name:<10} in process {' '.join(map(str, elsewhere))}, which says why")
        elif first:
            say(f"ok    {name:<10} {text}")
        if problem or elsewhere:
            failed.append(name)
    return failed


def _failed_in(here: bool) -> list[int]:
    """The processes in which a check failed; versions are looked at before processes can ask each other."""
    try:
        return np.flatnonzero(gather(np.array(here))).tolist()
    except RuntimeError:
        if not here:
            raise
        return []  # JAX does not start here: that is what failed
