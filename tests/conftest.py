"""Every test runs on the CPU with eight virtual devices and with implicit rank promotion refused."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

# Flags that compile several times as fast; what is compiled is as correct, and no slower at the sizes of tests.
_FAST = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)


def _xla_knows(*flags: str) -> bool:
    """Whether the installed XLA takes these flags: one it does not know ends the process, so another one tries."""
    command = [sys.executable, "-c", "from jaxlib import xla_client; xla_client.CompileOptions()"]
    return (
        subprocess.run(command, env={**os.environ, "XLA_FLAGS": " ".join(flags)}, capture_output=True).returncode == 0
    )


os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Compiling takes most of the time of these tests, and they check numbers, not speed. `XLA_FLAGS= pytest ...` runs them
# with the compiler's defaults, as users do: `.ci/run` does for parity, resume and several devices, and
# `launch/test_full.sh` for everything.
if "XLA_FLAGS" not in os.environ:
    known = _FAST if _xla_knows(*_FAST) else [flag for flag in _FAST if _xla_knows(flag)]
    os.environ["XLA_FLAGS"] = " ".join(known)

# No test asks a network; those of the hub ask one of their own.
os.environ["HF_HUB_OFFLINE"] = "1"

# The processes of a run have the cores to share. OpenBLAS's threads would wait for one another: a decomposition takes
# a hundred times as long on cores that are busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# What one process compiled serves the other processes of this run, and those that tests start. The folder is new for
# every run (unless the caller names one) and is made by the process that starts the others.
_own_cache = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _own_cache = tempfile.mkdtemp(prefix="ditask-test-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _own_cache
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# With several processes the longest files come first, so that no process is left with one of them at the end. A file
# that is missing here costs balance only.
_LONGEST_FIRST = (
    "tests/parity/test_multitask.py",
    "tests/adapters/test_method_laws.py",
    "tests/adapters/test_laws.py",
    "tests/training/test_trainer.py",
    "tests/crash/test_kill.py",
    "tests/adapters/test_ditask.py",
    "tests/parity/test_cpab_core.py",
    "tests/training/test_pascal_epoch.py",
    "tests/training/test_guards.py",
    "tests/training/test_parallel.py",
    "tests/test_readme.py",
    "tests/training/test_from_model.py",
    "tests/plots/test_plots.py",
    "tests/docs/test_extending.py",
    "tests/docs/test_samples.py",
    "tests/prediction/test_predictor.py",
    "tests/prediction/test_command.py",
    "tests/cpab/test_spectrum.py",
    "tests/training/test_own_files.py",
    "tests/training/test_classification.py",
    "tests/training/test_surgery.py",
    "tests/adapters/test_drawn_options.py",
    "tests/cpab/test_flow.py",
    "tests/benchmarks/test_step.py",
    "tests/adapters/test_storage.py",
    "tests/parity/test_linears.py",
    "tests/parity/test_cpab.py",
    "tests/reports/test_inspection.py",
    "tests/heads/test_hrnet.py",
    "tests/training/test_resolution.py",
    "tests/parity/test_pvt.py",
)


def pytest_unconfigure() -> None:
    if _own_cache:
        shutil.rmtree(_own_cache, ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Puts the longest files first, and leaves out tests of golden files that the folder in `DITASK_GOLDEN_DIR` lacks.

    Elsewhere a test without a single case is a mistake, where pytest would skip it.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        rank = {name: place for place, name in enumerate(_LONGEST_FIRST)}
        items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))
    empty = [item for item in items if _has_no_case(item)]
    if not empty:
        return
    if "DITASK_GOLDEN_DIR" not in os.environ:
        raise pytest.UsageError("tests without a single case: " + ", ".join(item.nodeid for item in empty))
    config.hook.pytest_deselected(items=empty)
    items[:] = [item for item in items if item not in empty]


def _has_no_case(item) -> bool:
    """Whether a test is parametrised over an empty list, which pytest marks."""
    reasons = [str(mark.kwargs.get("reason", "")) for mark in item.iter_markers("skip")]
    return any(reason.startswith("got empty parameter set") for reason in reasons)


@pytest.fixture(scope="session")
def golden_dir() -> pathlib.Path:
    """Folder of golden `.npz` files: `DITASK_GOLDEN_DIR`, else the copy under `tests/golden`."""
    folder = pathlib.Path(os.environ.get("DITASK_GOLDEN_DIR", pathlib.Path(__file__).parent / "golden"))
    if not folder.is_dir():
        pytest.fail(f"golden folder {folder} is missing; set DITASK_GOLDEN_DIR to a folder of golden .npz files")
    return folder
