"""The folder of a run: its configuration, the log of its launches, and the promise that it stays the folder of one
run.
"""

import contextlib
import datetime
import os
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ditask_jax.config import config_diff, from_json, to_json
from ditask_jax.errors import CheckpointError
from ditask_jax.files import LOCK_NAME, atomic_write_text, json_text, parse_json, user_path
from ditask_jax.training.distributed import is_first, locked_by_first
from ditask_jax.training.optim.group_rates import settled
from ditask_jax.training.resolving import as_recorded

# Fields that change neither the numbers of a run (but for rounding) nor their order: they may differ when it goes on.
FREE_FIELDS = (
    "log_every_steps",
    "checkpoint_every_steps",
    "backbone.weights_resolved",
    "checkpoint.keep",
    "checkpoint.allow_changed",
    "data.threads",
    "data.workers",
    "data.root",
    "data.stall_seconds",
    "mesh.data",
    "mesh.fsdp",
    "on_nonfinite",
    "recipe",  # what it means is recorded: rates, and what trains beside adapters
    "remat",
    "logging.tensorboard",
    "logging.wandb",
    "logging.wandb_project",
    "logging.wandb_name",
)
# Fields that came later, with the value that does what was done before: runs from then can be resumed and evaluated.
LATER_FIELDS = {
    "backbone.weights_resolved": None,
    "backbone.weights_sha256": None,
    "checkpoint.allow_changed": None,
    "checkpoint.best_mode": "max",
    "data.held_aside": None,
    "data.mask_ignore": None,
    "data.stall_seconds": 60.0,
    "data.subfolders": None,
    "head.per_task": None,
    "logging.tensorboard": False,
    "logging.wandb": "off",
    "logging.wandb_name": None,
    "logging.wandb_project": "ditask_jax",
    "mesh.fsdp": 1,
    "mesh.statistics": "global",
    "on_nonfinite": "stop",
    "optimizer.accumulate": 1,
    "optimizer.decays": None,
    "optimizer.rates": None,
    "optimizer.warmups": None,
    "recipe": "published",
    "remat": "none",
}


# An evaluation is waited for so many seconds by the training whose scores come next.
_PATIENCE = 120.0
SCORES_LOCK_NAME = ".scores.lock"
# Groups of fields that came later as a whole.
LATER_GROUPS = ("logging", "task")


class RunDir:
    """Paths inside a run's folder.

    A folder belongs to one configuration. Of another one only `FREE_FIELDS` may differ, and the fields that it lists
    itself in `checkpoint.allow_changed`.

    >>> RunDir("runs/x").checkpoints.as_posix()
    'runs/x/checkpoints'
    """

    def __init__(self, path: str | Path):
        self.path = user_path(path, "workdir")
        self.config = self.path / "config.json"
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"
        self.nonfinite = self.path / "nonfinite"
        self.examples = self.path / "examples"
        self.profile = self.path / "profile"
        self.starts = self.path / LAUNCHES_NAME
        self.evaluation = self.path / "evaluation.json"

    def check(self, config: ConfigDict) -> None:
        """Checks that the folder is free or belongs to this configuration; writes nothing.

        Raises:
          CheckpointError: the folder belongs to another configuration, or the path is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise CheckpointError(f"workdir: '{self.path}' is a file; give a folder")
        config = self.recorded(config)
        if self.config.exists():
            allowed = (config.checkpoint.allow_changed or "").split(",")
            free = {*FREE_FIELDS, *(name.strip() for name in allowed)}
            found = config_diff(self.load_config(), settled(config))
            differences = [line for line in found if line.split(":")[0] not in free]
            if differences:
                names = ",".join(line.split(":")[0] for line in differences)
                raise CheckpointError(
                    f"workdir: '{self.path}' holds a run of another configuration: {'; '.join(differences)}. "
                    "Use another --workdir, the same configuration to resume, or resume with the change: "
                    f"--config.checkpoint.allow_changed={names}"
                )
        elif self.checkpoints.exists() and any(self.checkpoints.iterdir()):
            raise CheckpointError(
                f"workdir: '{self.path}' holds checkpoints but no config.json; restore it, or use another --workdir"
            )

    def recorded(self, config: ConfigDict) -> ConfigDict:
        """The configuration with what the run in the folder recorded of its weights on a hub, where there is one."""
        return as_recorded(config, self.load_config()) if self.config.exists() else config

    @contextlib.contextmanager
    def training(self, what: str = "training") -> Iterator[None]:
        """Keeps every other training out of the folder while entered; whoever only reads is not kept out.

        All processes of a job enter together, and a thread that has entered may do so again.

        Raises:
          CheckpointError: another one is at work in the folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise CheckpointError(f"workdir: '{self.path}' is a file; give a folder")
        remedy = "wait for it, stop it, or use another --workdir"
        with locked_by_first(self.path / LOCK_NAME, "workdir", what, remedy, nested=True):
            yield

    @contextlib.contextmanager
    def scoring(self, waiting: bool = False) -> Iterator[None]:
        """Keeps others from writing the scores and figures of the run while entered; a training may go on meanwhile.

        Args:
          waiting: wait for another evaluation, for minutes at the most, and go on all the same: a training does not end
            without its scores.

        Raises:
          CheckpointError: another evaluation is at work, and it was not to be waited for.
        """
        lock = locked_by_first(
            self.path / SCORES_LOCK_NAME,
            "workdir",
            "evaluation",
            "wait for it, or stop it",
            nested=True,
            patience=_PATIENCE if waiting else 0.0,
        )
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock)
            except (CheckpointError, OSError):
                if not waiting:
                    raise
            yield

    def claim(self, config: ConfigDict) -> None:
        """Makes the folder this configuration's own; raises as `check` does. Of several processes the first writes."""
        self.check(config)
        if is_first():
            atomic_write_text(self.config, to_json(settled(self.recorded(config))))

    @contextlib.contextmanager
    def claimed(self, config: ConfigDict) -> Iterator[None]:
        """`claim`, and `training` while entered."""
        with self.training():
            self.claim(config)
            yield

    def load_config(self) -> ConfigDict:
        """The configuration of the run.

        Raises:
          CheckpointError: there is no run in the folder.
        """
        if not self.config.is_file():
            raise CheckpointError(f"workdir: '{self.path}' holds no run (no config.json); train one there first")
        return _completed(from_json(self.config.read_text(encoding="utf-8"), str(self.config)))


def _completed(config: ConfigDict) -> ConfigDict:
    with config.unlocked():
        for group in LATER_GROUPS:
            if group not in config:
                config[group] = ConfigDict()
        for name, value in LATER_FIELDS.items():
            *groups, field = name.split(".")
            group = config
            for part in groups:
                group = group.get(part, None) if isinstance(group, ConfigDict) else None
            if isinstance(group, ConfigDict) and field not in group:
                group[field] = value
    return config


# What a run was trained on: `starts.jsonl` has a row for every time that training was started in its folder.


LAUNCHES_NAME = "starts.jsonl"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def record_launch(path: Path, step: int, devices: Sequence[jax.Device]) -> None:
    """Appends a row.

    Args:
      path: the file.
      step: steps done before.
      devices: of the mesh, those of other processes included.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "step": step, **hardware(devices)}
    with open(path, "ab") as file:
        # A line that a killed process left half-written must not swallow this one.
        torn = file.tell() > 0 and path.read_bytes()[-1:] != b"\n"
        file.write(("\n" * torn + json_text(row) + "\n").encode())


def hardware(devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Devices, processor and versions, as plain data; nothing that tells whose machine it is.

    >>> found = hardware(jax.devices("cpu")[:1])
    >>> found["platform"], found["device_count"], found["processes"]
    ('cpu', 1, 1)
    """
    kinds = sorted({device.device_kind for device in devices})
    return {
        "platform": devices[0].platform if len(devices) else "unknown",
        "devices": kinds,
        "device_count": len(devices),
        "processes": jax.process_count(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    """The processor's name as Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def read_launches(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Rows of a run's `starts.jsonl`; rows that a killed process left half-written are passed over."""
    path = user_path(workdir) / LAUNCHES_NAME
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found
