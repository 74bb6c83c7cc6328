"""These tests compare with PyTorch models; without the `convert` extra they fail, they do not skip.

pip install 'torch==2.13.0' timm 'transformers==5.23.0' peft flatbuffers
python -m pytest tests/interop
"""

import importlib.util
import warnings

import pytest
import torch

from benchmarks.torchvision_operators import declare_operators

if importlib.util.find_spec("torchvision") is None:
    pytest.exit("tests/interop: timm needs torchvision, of the version that belongs to this torch", returncode=2)
declare_operators()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import timm  # noqa: F401
    import transformers

transformers.utils.logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def _quiet():
    """Deprecations inside PyTorch and transformers are not ours to fix."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        with torch.no_grad():
            yield
