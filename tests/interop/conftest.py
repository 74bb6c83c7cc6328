"""These tests compare with PyTorch models; without the `convert` extra they fail, they do not skip.

pip install 'torch==2.13.0' timm 'transformers==5.23.0' flatbuffers
python -m pytest tests/interop
"""

import ctypes
import importlib.util
import pathlib
import warnings

import pytest
import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _prepare_torchvision() -> None:
    """Declares two operators for torchvision, whose compiled part cannot load beside a CPU-only PyTorch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        pytest.exit("tests/interop: timm needs torchvision, of the version that belongs to this torch", returncode=2)
    compiled = next(iter(pathlib.Path(spec.origin).parent.glob("_C*.so")), None)
    try:
        ctypes.CDLL(str(compiled))
    except OSError:
        for name, schema in _SCHEMAS.items():
            torch.library.define(f"torchvision::{name}", schema)


_prepare_torchvision()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import timm  # noqa: F401
    import transformers

transformers.utils.logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def _quiet():
    """Deprecations inside PyTorch and transformers are not ours to mend."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        with torch.no_grad():
            yield
