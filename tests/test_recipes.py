"""The configurations of the benchmarks: they load, fit their data sets, and reproduce the published counts."""

import pathlib

import pytest

from ditask_jax.config import load_config
from ditask_jax.data.vtab import VTAB_TASKS
from ditask_jax.training.experiment import (
    build_augmentation,
    build_tasks,
    describe_plan,
    known_examples,
    training_length,
)

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
RECIPES = {
    "pascal_swin_tiny.py": ("semseg human_parts sal normals", 4998),
    "nyud_swin_tiny.py": ("semseg depth normals", 795),
    "nyud_swin_tiny.py:semseg_depth": ("semseg depth", 795),
    "cityscapes_swin_tiny.py": ("semseg depth", 2975),
    "ccp_dinov2_small.py": ("semseg human_parts sal edge", 803),
    "camvid_dinov2_small.py": ("semseg edge", 367),
    "vtab_swin_tiny.py": ("classification", 1000),
    **{f"vtab_swin_tiny.py:{name}": ("classification", 1000) for name in VTAB_TASKS},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_and_says_how_it_is_run(name):
    config = load_config(f"configs/{name}")
    names, examples = RECIPES[name]
    assert [task.name for task in build_tasks(config)] == names.split()
    assert known_examples(config) == examples
    text = (CONFIGS / name.split(":")[0]).read_text().split('"""')[1]
    assert f"python -m ditask_jax.train --config=configs/{name.split(':')[0]}" in text
    assert "Published" in text
    assert "\nUnknown" in text


def test_the_benchmarks_augment_as_they_say():
    pascal, nyud, vtab = (
        build_augmentation(load_config(f"configs/{name}_swin_tiny.py")) for name in ("pascal", "nyud", "vtab")
    )
    assert (pascal.hflip, pascal.rotation, pascal.scale) == (0.5, 20.0, (0.75, 1.25))
    assert (nyud.hflip, nyud.rotation, nyud.scale, nyud.scales_are_choices) == (0.5, 0.0, (1.0, 1.2, 1.5), True)
    assert not vtab.is_random
    assert vtab.resize == "pillow"
    defaults = (pascal.pad_ignore, pascal.compat_uint8_wrap, pascal.erode_normals, pascal.fast_warp)
    assert defaults == (False, False, 0, False)
    assert pascal.ignore_empty_maps
    changes = {"data.erode_normals": 2, "data.compat_uint8_wrap": True, "data.ignore_empty_maps": False}
    changed = build_augmentation(load_config("configs/pascal_swin_tiny.py", changes))
    assert (changed.erode_normals, changed.compat_uint8_wrap, changed.ignore_empty_maps) == (2, True, False)


def test_length_and_counts_of_the_published_settings():
    nyud = load_config("configs/nyud_swin_tiny.py")
    assert training_length(nyud, 795) == (24, 2400)
    assert training_length(load_config("configs/nyud_swin_tiny.py", ["batch_size=512"]), 795) == (1, 100)
    assert training_length(load_config("configs/pascal_swin_tiny.py", ["batch_size=512"]), 4998) == (9, 2700)
    assert describe_plan(nyud).trainable_decoder == 1_481_588
    # One task, 64 cells for it and 64 shared: 1.60 M in the papers' table.
    single = describe_plan(load_config("configs/vtab_swin_tiny.py", ["recipe=published"]))
    assert single.upstream["trainable_backbone"] == 1_604_082
