"""Small foreign files of every layout, made from our random models and the layouts' own names."""

import ml_dtypes
import numpy as np

from ditask_jax.backbones import backbone_entry, create_backbone
from ditask_jax.conversion.dino_names import periods
from ditask_jax.conversion.layout_registry import LAYOUTS, ONE_STREAM
from ditask_jax.conversion.layouts import Layout
from ditask_jax.nn import Scope, flatten, split_state
from ditask_jax.weight_files import encode_tensors

CLASSES = 5
SIZE = 64
TEST_MODELS = {
    "Swin": "swin_test",
    "PVT": "pvt_test",
    "PVT v2": "pvt_v2_test",
    "ViT": "vit_test",
    "DINOv2": "dinov2_test",
    "DINOv3": "dinov3_test",
}
# Where a family has several sizes for its layouts' sake.
PLAIN_DINOV2 = "dinov2_test_plain"
ONE_STREAM_LAYOUTS = [layout for layout in LAYOUTS if layout.name in ONE_STREAM]
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}


def model_of(layout: Layout) -> str:
    """The backbone of test size that a layout is for."""
    name = TEST_MODELS[layout.family.name]
    return name if layout.fits(backbone_entry(name).config) else PLAIN_DINOV2


def our_arrays(layout: Layout, seed: int = 0, dtype=np.float32) -> dict[str, np.ndarray]:
    """Random arrays of a test-size backbone, with what travels along, under our paths."""
    name = model_of(layout)
    parts = split_state(create_backbone(name, SIZE, 0.0, Scope(path="backbone", abstract=True)))
    shapes = {}
    for tree in (parts.trainable, parts.frozen, parts.stats):
        shapes |= {f"backbone/{path}": tuple(value.shape) for path, value in flatten(tree).items()}
    channels = backbone_entry(name).config.feature_channels[-1]
    if layout.family.name != "PVT v2":
        shapes |= {"norm/scale": (channels,), "norm/bias": (channels,)}
    if layout.table.theirs_of("head/kernel") is not None:
        shapes |= {"head/kernel": (channels, CLASSES), "head/bias": (CLASSES,)}
    if layout.table.theirs_of("mask_token") is not None:
        shapes["mask_token"] = (channels,)
    rng = np.random.default_rng(seed)
    arrays = {path: rng.standard_normal(shape).astype(dtype) for path, shape in shapes.items()}
    # Some layouts cannot hold every model: what they leave out is zero.
    for path, array in arrays.items():
        if layout.title == "timm DINOv2" and path == "backbone/position_embedding":
            array[:1] = 0
        elif layout.title == "timm DINOv3" and path.endswith("/attn/qkv/bias"):
            array[:] = 0
    if layout.table.theirs_of("rope_periods") is not None:
        arrays["rope_periods"] = periods(backbone_entry(name).config)
    return arrays


def foreign(layout: Layout, seed: int = 0, dtype=np.float32) -> dict[str, np.ndarray]:
    """The same under the layout's names, buffers included."""
    tensors, unknown = layout.write(our_arrays(layout, seed, dtype), prefixed=True)
    assert not unknown
    if layout.buffers is not None:
        tensors |= layout.buffers(backbone_entry(model_of(layout)).config, (SIZE, SIZE))
    return tensors


def write(path, tensors):
    path.write_bytes(encode_tensors(tensors, {"format": "pt"}))
    return path
