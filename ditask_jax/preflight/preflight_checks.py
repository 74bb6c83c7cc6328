"""What is looked at before training on machines that cost money: each check returns a line, or raises one."""

import contextlib
import dataclasses
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ditask_jax.config_tasks import said
from ditask_jax.conversion.obtaining import at_hand, obtain_weights
from ditask_jax.data import dataset_checks
from ditask_jax.data.benchmarks import TREES
from ditask_jax.data.wrappers import SkippingSource, stored_labels
from ditask_jax.errors import CheckpointError, ConfigError, DataError
from ditask_jax.files import user_path
from ditask_jax.hub.addresses import is_hub
from ditask_jax.hub.transfers import check_fetchable
from ditask_jax.shell import explain, no_device
from ditask_jax.training.cluster import Cluster
from ditask_jax.training.distributed import agree, gather, is_first, wait_for_all
from ditask_jax.training.experiment import build_source, build_tasks, declared_labels, weights_path
from ditask_jax.training.resolving import check_hash
from ditask_jax.training.run_folder import RunDir

REQUIREMENTS: Mapping[str, tuple[str, str]] = {
    "jax": ("0.10.2", "0.13"),
    "jaxlib": ("0.10.2", "0.13"),
    "flax": ("0.12.8", "0.13"),
    "optax": ("0.2.8", "0.3"),
    "orbax-checkpoint": ("0.12.8", "0.13"),
    "grain": ("0.2.18", "0.3"),
    "numpy": ("2.1", "3"),
    "ml-collections": ("1.1", "2"),
    "safetensors": ("0.6", "0.9"),
    "opencv-python-headless": ("4.12", "6"),
}
"""Versions that results depend on, from and below; `pyproject.toml` says the same (a test compares them)."""
_PYTHON = ("3.11", "3.14")
_INSTALL = "run 'pip install -r requirements.txt' (requirements-cuda12.txt, requirements-cuda13.txt for GPUs)"


@dataclasses.dataclass
class Setting:
    """What the checks are about, and what they leave for each other.

    Attributes:
      config: the configuration.
      cluster: the processes that take part, None for one.
      workdir: folder of the run that will follow, None where none was named.
      samples: examples to read per split.
      trainer: made by the check `model`, used by those after it.
      program: the compiled step and its arguments, likewise.
    """

    config: ConfigDict
    cluster: Cluster | None = None
    workdir: Path | None = None
    samples: int = 16
    trainer: Any = None
    program: tuple | None = None


def check_versions(setting: Setting) -> str:
    """Python and the packages that results depend on are of versions that this code was tried with."""
    del setting
    found, wrong = installed(), []
    ranges = {"python": _PYTHON, **REQUIREMENTS}
    for name, version in found.items():
        if version is None:
            wrong.append(f"{name} is not installed")
            continue
        low, below = ranges[name]
        if not _number(low) <= _number(version) < _number(below):
            wrong.append(f"{name} is {version}, expected {low} or newer and below {below}")
    if wrong:
        raise ConfigError(f"versions: {'; '.join(wrong)}; {_INSTALL}")
    return f"Python {found['python']}, " + ", ".join(f"{name} {found[name]}" for name in ("jax", "flax", "numpy"))


def check_devices(setting: Setting) -> str:
    """JAX sees every device that is meant for this training."""
    try:
        here = jax.local_devices()
    except (RuntimeError, AssertionError) as error:
        raise explain(error) or no_device(" ".join(str(error).split())) from error
    chosen = os.environ.get("JAX_PLATFORMS", "")
    present = visible_gpus(os.environ)
    meant = len(setting.cluster.devices) if setting.cluster and setting.cluster.devices else present
    if here[0].platform == "cpu" and present and not chosen.startswith("cpu"):
        raise ConfigError(
            f"devices: {present} GPUs are in this machine and JAX sees only its CPU; install requirements-cuda13.txt "
            "(or requirements-cuda12.txt for drivers below 580), or set JAX_PLATFORMS=cpu to train without them"
        )
    if here[0].platform == "gpu" and meant and len(here) != meant:
        raise ConfigError(
            f"devices: JAX sees {len(here)} of {meant} GPUs in process {jax.process_index()}; unset "
            "JAX_LOCAL_DEVICE_IDS, or start one task per GPU (or per node) with launch/slurm.sbatch"
        )
    expected = setting.cluster.expected if setting.cluster else None
    if here[0].platform == "gpu" and expected is not None and jax.device_count() != expected:
        raise ConfigError(
            f"devices: the job has {expected} GPUs and its {jax.process_count()} processes see {jax.device_count()}; "
            "use launch/slurm.sbatch, which starts one task per node with all its GPUs"
        )
    agree("set of package versions", str(installed()), _INSTALL)
    kinds = "+".join(sorted({device.device_kind for device in jax.devices()}))
    limit = device_memory(here[0])
    size = "" if limit is None else f", {limit / 2**30:.1f} GiB each"
    return f"{jax.device_count()} x {kinds} in {jax.process_count()} process(es){size}"


def check_workdir(setting: Setting) -> str:
    """The folder of the run can be written, is free or of this configuration, and is the same for every process."""
    if setting.workdir is None:
        return "none named; give --workdir to check it too"
    run = RunDir(setting.workdir)
    run.check(setting.config)
    setting.config = run.recorded(setting.config)
    steps = sorted(int(path.name) for path in run.checkpoints.glob("*") if path.name.isdecimal())
    state = f"resumes from step {steps[-1]}" if steps else "a new run"
    # A training that is at work there is told of now, not after minutes.
    with run.training("preflight"), made(run.path):
        _write_and_share(run.path)
        return f"'{run.path}', {state}, {shutil.disk_usage(run.path).free / 2**30:.1f} GiB free"


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """A folder that exists meanwhile; one that was not there before and is empty afterwards is removed."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if is_new and is_first() and not any(folder.iterdir()):
            folder.rmdir()


def _write_and_share(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".preflight-") as file:
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())
    names = gather(np.frombuffer(os.urandom(16), np.uint8))
    token = folder / f".preflight-{bytes(names[0]).hex()}"
    if is_first():
        token.write_text("seen", encoding="utf-8")
    wait_for_all()
    seen = token.is_file()
    wait_for_all()
    if is_first():
        token.unlink(missing_ok=True)
    if not seen:
        raise CheckpointError(
            f"workdir: '{folder}' is another folder for process {jax.process_index()} than for process 0; "
            "use one on a file system that all nodes share"
        )


def check_weights(setting: Setting) -> str:
    """The pretrained weights are there and every array is what its hash says."""
    place = weights_path(setting.config)
    if place is None:
        return "random (backbone.weights is not set)"
    path = at_hand(place)
    if path is None:
        check_fetchable(place)
        text = f"{place} is not in the cache, and nothing is downloaded here"
        return f"{text}: training does that first; what follows is tried with random weights"
    found = obtain_weights(path, setting.config.backbone.name)
    if expected := setting.config.backbone.get("weights_sha256"):
        check_hash(found, expected, f"weights: '{place}'")
    arrays, facts = found.arrays, found.metadata
    size = sum(array.nbytes for array in arrays.values()) / 2**20
    return f"{facts.get('architecture', '?')}, {len(arrays)} arrays, {size:.1f} MiB, every hash as written: {place}"


def without_downloads(config: ConfigDict) -> ConfigDict:
    """The configuration with weights of a hub taken from the cache, or random where any process has them not there."""
    if not is_hub(config.backbone.weights):
        return config
    path = at_hand(weights_path(config))
    everywhere = bool(gather(np.array(path is not None)).all())
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.backbone.weights = str(path) if everywhere else None
        config.backbone.weights_sha256 = config.backbone.weights_sha256 if everywhere else None
    return config.lock()


def check_data(setting: Setting) -> str:
    """Every file of both splits is there, those of a prepared set are whole, and samples can be read."""
    config = setting.config
    data, needed = config.data, stored_labels(task.name for task in build_tasks(config))
    sources = {split: build_source(config, split) for split in ("train", "val")}
    counts = ", ".join(f"{split} {len(source)}" for split, source in sources.items())
    if data.name in TREES:
        report = dataset_checks.examine_multitask(
            data.name,
            user_path(data.root, "config: data.root"),
            needed,
            setting.samples,
            lambda *_: None,
            data.layout,
            data.depth_unit,
            data.semseg_classes,
        )
        problems, read = [f"{p.split} {p.what}: {p.found}" for p in report.fatal()], report.read
    elif data.name == "folder":
        problems, read = _own_files(config, sources, needed, setting.samples)
    else:
        problems, read = _sampled(sources, setting.samples)
    if problems and data.on_bad_file != "skip":
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise DataError(
            f"data: {data.name}: {problems[0]}{more}; put the files in place ('python -m ditask_jax.data doctor' names "
            "each), or set data.on_bad_file=skip"
        )
    passed = f", {len(problems)} bad ones will be passed over" if problems else ""
    return f"{data.name}: {counts}; {read} samples read{passed}"


def _own_files(
    config: ConfigDict, sources: Mapping[str, Any], needed: Sequence[str], samples: int
) -> tuple[list[str], int]:
    """The same of files of one's own.

    Raises:
      DataError: they can be read and mean something else than the configuration says.
    """
    openers = {split: (lambda source=source: _plain(source)) for split, source in sources.items()}
    own = declared_labels(needed, said(config.get("task", None)))
    report = dataset_checks.examine_sources("folder", openers, needed, {}, samples, lambda *_: None, declared=own)
    found = [f"{p.split}: {p.found}" for p in report.problems]
    dataset_checks.doubt_labels(report, config.data.mask_ignore, config.data.depth_unit, own)
    for problem in report.problems[len(found) :]:
        raise DataError(f"data: {problem.what}: {problem.found}")
    return found, report.read


def _plain(source):
    """The source that does not pass over bad examples."""
    return source.source if isinstance(source, SkippingSource) else source


def _sampled(sources: Mapping[str, Any], samples: int) -> tuple[list[str], int]:
    """Problems with, and number of, examples spread evenly over the splits."""
    problems, read = [], 0
    for split, source in sources.items():
        plain = _plain(source)
        for number in np.unique(np.linspace(0, len(plain) - 1, samples).round().astype(int)).tolist():
            try:
                plain[number]
                read += 1
            except DataError as error:
                problems.append(f"{split}: {str(error).removeprefix('data: ')}")
    return problems, read


def visible_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """How many NVIDIA GPUs this process could use, without asking JAX; 0 where there are none."""
    present = sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in devices.glob("nvidia*"))
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return present
    return min(present, len([name for name in shown.split(",") if name.strip() and name.strip() != "-1"]))


def device_memory(device: jax.Device) -> int | None:
    """Bytes that programs may use on a device, None where it does not tell (a CPU)."""
    return (device.memory_stats() or {}).get("bytes_limit")


def installed() -> dict[str, str | None]:
    """Versions by name, None for what is missing."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in REQUIREMENTS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _number(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparison.

    >>> _number("0.12.8rc1") < _number("0.12.10")
    True
    """
    numbers = []
    for part in version.split("."):
        match = re.match(r"\d+", part)
        if not match:
            break
        numbers.append(int(match[0]))
        if match[0] != part:
            break
    return tuple(numbers)
