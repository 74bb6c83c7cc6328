"""Every test runs on the CPU with eight virtual devices and with implicit rank promotion refused."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Compiling takes most of the time of these tests, and they check numbers, not speed. The quickstart, which the
# continuous integration runs too, and `launch/test_full.sh` use the compiler's defaults.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def golden_dir() -> pathlib.Path:
    """Folder of golden `.npz` files: `DITASK_GOLDEN_DIR`, else the copy under `tests/golden`."""
    folder = pathlib.Path(os.environ.get("DITASK_GOLDEN_DIR", pathlib.Path(__file__).parent / "golden"))
    if not folder.is_dir():
        pytest.fail(f"golden folder {folder} is missing; set DITASK_GOLDEN_DIR to a folder of golden .npz files")
    return folder
