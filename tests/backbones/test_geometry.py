"""Which image sizes fit, and what the error says of those that do not."""

import pytest

from ditask_jax.backbones import create_backbone, list_models
from ditask_jax.backbones.geometry import check_size, nearest_sizes, stage_geometries
from ditask_jax.errors import ConfigError
from ditask_jax.nn import Scope


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


def test_rectangles_fit_too():
    assert [s.grid for s in check_size((224, 448), 4, 7, 4)][-1] == (7, 14)
    assert nearest_sizes((224, 450), 4, 7, 4)[0] == (224, 448)


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'swin_tiny_patch4_window7'"):
        create_backbone("swin_tiny_patch4_windw7", 224)


def test_every_backbone_can_be_described():
    for name in list_models():
        window = int(name.rsplit("window", 1)[1]) if "window" in name else 4
        size = {7: 224, 12: 384, 6: 192}.get(window, 64)
        create_backbone(name, size, 0.1, Scope(abstract=True))
