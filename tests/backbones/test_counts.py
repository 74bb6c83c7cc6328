"""Numbers of parameters: those that authors publish or that names imply, and of the released weights."""

import math

import pytest
from flax import nnx

from ditask_jax.adapters import DiTASK, Full, make_plan
from ditask_jax.backbones import backbone_entry, create_backbone, list_models
from ditask_jax.config import load_config
from ditask_jax.model import create_model
from ditask_jax.nn import Scope, flatten
from ditask_jax.training.experiment import describe_plan
from tests.adapters.cases import task_list

PASCAL = ("semseg", "human_parts", "sal", "normals")
PVT = "configs/pascal_pvt_v2_b2.py"


def test_published_count_of_pvt():
    plan = describe_plan(load_config(PVT))
    assert plan.upstream["trainable_backbone"] == 1_958_912
    assert plan.trainable_backbone == 1_958_339
    groups = plan.groups
    assert groups["patch_embed"] == 1_929_408
    assert groups["norms"] == 16_640 + 5_248 + 2_048
    assert (groups["adapter shared"], groups["adapter task"]) == (5_040 - 3 * 63, 144)


@pytest.mark.parametrize(
    ("cells", "upstream"),
    [((128, 4), 1_964_032), ((64, 64), 1_969_472)],
)
def test_counts_with_other_cells(cells, upstream):
    overrides = (f"method.shared_cells={cells[0]}", f"method.task_cells={cells[1]}")
    assert describe_plan(load_config(PVT, overrides)).upstream["trainable_backbone"] == upstream


def test_count_of_the_first_generation():
    """By the same rule: patch embeddings, block norms, norms of shrunk maps; the final norm is not in the backbone."""
    model = create_model("pvt_small", task_list(*PASCAL), 224, abstract=True)
    plan = make_plan(model, DiTASK(shared_layers=(), task_layers=()))
    assert plan.trainable_backbone == 858_112 + 16_640 + 5_248
    full = make_plan(model, Full())
    positions = sum((56 >> stage) ** 2 * channels for stage, channels in enumerate((64, 128, 320, 512))) + 512
    # The class token waits for a readout that has a use for it.
    assert full.groups["positions"] == positions


# Millions of parameters of the released ImageNet-1k classifiers.
RELEASED = {
    "pvt_tiny": 13.23,
    "pvt_small": 24.49,
    "pvt_medium": 44.21,
    "pvt_large": 61.37,
    "pvt_v2_b0": 3.67,
    "pvt_v2_b1": 14.01,
    "pvt_v2_b2": 25.36,
    "pvt_v2_b2_li": 22.55,
    "pvt_v2_b3": 45.24,
    "pvt_v2_b4": 62.56,
    "pvt_v2_b5": 81.96,
    "vit_tiny_patch16": 5.72,
    "vit_small_patch16": 22.05,
    "vit_base_patch16": 86.57,
    "vit_large_patch16": 304.33,
    "vit_base_patch32": 88.22,
    "vit_base_patch8": 86.58,
    "swin_tiny_patch4_window7": 28.29,
}
# Without a classifier, of the released files: as their makers publish them.
RELEASED_BODIES = {
    "vit_small_patch14_dinov2": 22.06,
    "vit_base_patch14_dinov2": 86.58,
    "vit_large_patch14_dinov2": 304.37,
    "vit_small_patch14_reg4_dinov2": 22.06,
    "vit_base_patch14_reg4_dinov2": 86.58,
    "vit_large_patch14_reg4_dinov2": 304.37,
    "vit_small_patch16_dinov3": 21.60,
    "vit_small_plus_patch16_dinov3": 28.69,
    "vit_base_patch16_dinov3": 85.66,
    "vit_large_patch16_dinov3": 303.13,
}


@pytest.mark.parametrize("name", RELEASED)
def test_sizes_are_those_of_released_weights(name):
    config = backbone_entry(name).config
    body = create_backbone(name, 224, scope=Scope(abstract=True))
    count = sum(math.prod(value.shape) for value in flatten(nnx.to_pure_dict(nnx.state(body))).values())
    width = config.feature_channels[-1]
    norm = 0 if name.startswith("pvt_v2") else 2 * width
    assert (count + norm + 1000 * (width + 1)) / 1e6 == pytest.approx(RELEASED[name], abs=0.006)


@pytest.mark.parametrize("name", RELEASED_BODIES)
def test_sizes_are_those_of_released_bodies(name):
    """With the final norm; DINOv3's without the bias of keys, which is always zero."""
    entry = backbone_entry(name)
    body = create_backbone(name, entry.image_size, scope=Scope(abstract=True))
    count = sum(math.prod(value.shape) for value in flatten(nnx.to_pure_dict(nnx.state(body))).values())
    assert (count + 2 * entry.config.embed_dim) / 1e6 == pytest.approx(RELEASED_BODIES[name], abs=0.006)


@pytest.mark.parametrize("name", list_models())
def test_every_line_of_the_registry_is_whole(name):
    entry = backbone_entry(name)
    assert len(entry.mean) == len(entry.std) == 3
    assert all(0 < value < 1 for value in entry.mean + entry.std)
    assert bool(entry.licence) == bool(entry.weight_files or entry.embedded_weights)
    assert not entry.gated or (entry.licence_page and entry.licence)
