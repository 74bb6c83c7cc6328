"""Which image sizes fit, and what the error says of those that do not."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from ditask_jax.backbones import backbone_entry, create_backbone, list_models
from ditask_jax.backbones.backbone_registry import REGISTRY
from ditask_jax.backbones.geometry import check_size, nearest_sizes, stage_geometries
from ditask_jax.errors import ConfigError
from ditask_jax.nn import Context, Scope


def test_published_geometry_at_448():
    stages = check_size((448, 448), 4, 7, 4)
    assert [(s.grid[0], s.window, s.shift) for s in stages] == [(112, 7, 3), (56, 7, 3), (28, 7, 3), (14, 7, 3)]


def test_a_window_as_large_as_the_grid_is_not_shifted():
    last = check_size((224, 224), 4, 7, 4)[-1]
    assert (last.grid, last.window, last.shift) == ((7, 7), 7, 0)


def test_a_grid_smaller_than_the_window_clips_it():
    assert [s.window for s in check_size((64, 64), 4, 4, 4)] == [4, 4, 4, 2]


@pytest.mark.parametrize("size", [(450, 450), (449, 449), (225, 224), (0, 0), (4, 4), (448, 450), (33, 64)])
def test_impossible_sizes_name_valid_ones(size):
    with pytest.raises(ConfigError, match=r"config: image_size: .* Nearest valid sizes: \d+x\d+ \d+x\d+") as caught:
        check_size(size, 4, 7, 4)
    for text in str(caught.value).split("Nearest valid sizes: ")[1].split():
        near = tuple(int(side) for side in text.split("x"))
        assert not isinstance(stage_geometries(near, 4, 7, 4), str)


def test_any_other_image_that_patches_tile_is_padded():
    """Grids that windows leave a rest of, odd ones before merging, and windows clipped on one side alone."""
    stages = check_size((244, 112), 4, 7, 4)
    assert [(s.grid, s.sides, s.shifts) for s in stages] == [
        ((61, 28), (7, 7), (3, 3)),
        ((31, 14), (7, 7), (3, 3)),
        ((16, 7), (7, 7), (3, 0)),
        ((8, 4), (7, 4), (3, 0)),
    ]
    backbone = create_backbone("swin_test_deep", (76, 40))
    taps = jax.eval_shape(lambda x: [tap for tap, _ in backbone(x, Context(train=False))], jnp.zeros((1, 76, 40, 3)))
    assert [tap.shape[2:4] for tap in taps] == [(10, 5), (5, 3), (3, 2), (3, 2)]


def test_other_windows_by_name():
    entry, released = backbone_entry("swin_base_patch4_window8"), backbone_entry("swin_base_patch4_window7")
    assert dataclasses.replace(entry.config, window=7) == released.config
    assert create_backbone("swin_tiny_patch4_window8", 256, scope=Scope(abstract=True)).config.window == 8
    with pytest.raises(ConfigError, match="Did you mean 'swin_tiny_patch4_window7'"):
        backbone_entry("swin_tinny_patch4_window8")


def test_a_registered_name_goes_before_another_window(monkeypatch):
    own = backbone_entry("swin_test")
    monkeypatch.setitem(REGISTRY, "swin_base_patch4_window8", own)
    assert backbone_entry("swin_base_patch4_window8") is own


def test_rectangles_fit_too():
    assert [s.grid for s in check_size((224, 448), 4, 7, 4)][-1] == (7, 14)
    assert nearest_sizes((224, 450), 4, 7, 4)[0] == (224, 448)


@pytest.mark.parametrize(
    ("name", "size"), [("vit_base_patch16", 450), ("vit_small_patch14", (224, 225)), ("vit_test", 0)]
)
def test_patches_must_tile_an_image(name, size):
    with pytest.raises(
        ConfigError, match=r"config: image_size: .* does not fit patch \d+: .*: \d+x\d+ \d+x\d+"
    ) as caught:
        create_backbone(name, size, scope=Scope(abstract=True))
    for near in _sizes_named(caught.value):
        create_backbone(name, near, scope=Scope(abstract=True))


@pytest.mark.parametrize(("name", "size"), [("pvt_small", 31), ("pvt_v2_b0", (448, 20)), ("pvt_tiny", 0)])
def test_an_image_must_leave_keys_in_every_stage_of_a_pyramid(name, size):
    with pytest.raises(ConfigError, match=r"config: image_size: .* is too small: stage 0 has a grid") as caught:
        create_backbone(name, size, scope=Scope(abstract=True))
    for near in _sizes_named(caught.value):
        create_backbone(name, near, scope=Scope(abstract=True))


def _sizes_named(error) -> list[tuple[int, ...]]:
    sizes = [tuple(map(int, text.split("x"))) for text in str(error).split("Nearest valid sizes: ")[1].split()]
    assert len(sizes) == 2
    return sizes


@pytest.mark.parametrize("name", ["pvt_test", "pvt_v2_test"])
def test_a_pyramid_takes_any_other_image(name):
    """Sides that nothing divides: the first generation drops what does not fill a patch, the second pads."""
    backbone = create_backbone(name, (75, 101))
    taps = jax.eval_shape(lambda x: [tap for tap, _ in backbone(x, Context(train=False))], jnp.zeros((1, 75, 101, 3)))
    grids = {"pvt_test": [(18, 25), (9, 12), (4, 6), (2, 3)], "pvt_v2_test": [(19, 26), (10, 13), (5, 7), (3, 4)]}
    assert [tap.shape[2:4] for tap in taps] == grids[name]


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'swin_tiny_patch4_window7'"):
        create_backbone("swin_tiny_patch4_windw7", 224)


def test_every_backbone_can_be_described():
    for name in list_models():
        create_backbone(name, backbone_entry(name).image_size, 0.1, Scope(abstract=True))
