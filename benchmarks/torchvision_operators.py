"""Importing torchvision, which timm and transformers do, where its compiled part cannot load."""

import ctypes
import functools
import importlib.util
import pathlib

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@functools.cache
def declare_operators() -> None:
    """Declares two operators for torchvision where its compiled part cannot load, as beside a CPU-only PyTorch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        return
    compiled = next(iter(pathlib.Path(spec.origin).parent.glob("_C*.so")), None)
    try:
        ctypes.CDLL(str(compiled))
    except OSError:
        for name, schema in _SCHEMAS.items():
            torch.library.define(f"torchvision::{name}", schema)
