"""The checks of the preflight that compile and run: the model, its memory, one step, one save and restore."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from ditask_jax.errors import CheckpointError, ConfigError
from ditask_jax.training.checkpoints import Checkpointer
from ditask_jax.training.compiled import program_memory
from ditask_jax.training.mesh import replicated
from ditask_jax.training.preflight_checks import Setting, device_memory, made
from ditask_jax.training.processes import is_first, wait_for_all
from ditask_jax.training.trainer import Trainer

_FOLDER = ".preflight"
_NAMES = ("trainable", "opt_state", "stats")
_LESS = "lower batch_size, raise optimizer.accumulate, set remat=blocks or compute_dtype=bfloat16"


def check_model(setting: Setting) -> str:
    """The model is built, filled and wrapped, and every field of the configuration can be used."""
    trainer = setting.trainer = Trainer(setting.config)
    plan = trainer.experiment.plan
    return (
        f"{setting.config.backbone.name}, {plan.method}: {plan.trainable_total:,} of {plan.total:,} numbers train; "
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
