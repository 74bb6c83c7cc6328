"""What `build_source` and `build_tasks` make of the fields of `data` for the benchmarks' own files."""

import numpy as np
import pytest

from ditask_jax.config import load_config, validate
from ditask_jax.data.benchmarks import TreeSource
from ditask_jax.data.prepared.prepared_source import PreparedSource
from ditask_jax.data.prepared.preparing import Wish, prepare
from ditask_jax.data.wrappers import SkippingSource
from ditask_jax.errors import ConfigError, DataError
from ditask_jax.training.experiment import build_source, build_tasks
from tests.data import miniature


def config_of(name, tasks, root, *overrides):
    fields = [f"data.name={name}", f"tasks={tasks}", f"data.root={root}", "data.train_examples=none"]
    return load_config("configs/smoke.py", [*fields, "data.eval_examples=none", *overrides])


def test_the_tree_and_the_prepared_set_open_from_the_same_field(tmp_path, capsys):
    miniature.write_nyud(tmp_path / "tree", millimetres=True)
    prepare(Wish("nyud"), tmp_path / "tree", tmp_path / "out", say=lambda line: None)
    for place, kind in (("tree", TreeSource), ("out", PreparedSource)):
        source = build_source(config_of("nyud", "semseg+depth", tmp_path / place), "train")
        assert isinstance(source, kind)
        assert set(source[0]) == {"image", "id", "semseg", "depth"}
        assert "nyud: depth is in millimetres" in capsys.readouterr().err
    config = config_of("nyud", "depth", tmp_path / "tree", "data.depth_unit=metres", "data.layout=vandenhende")
    assert build_source(config, "val")[0]["depth"].max() > 100
    assert [task.unit for task in build_tasks(config)] == ["metres"]


def test_units_and_classes_of_cityscapes(tmp_path):
    miniature.write_mtan(tmp_path / "mtan")
    miniature.write_cityscapes(tmp_path / "official")
    config = config_of("cityscapes", "semseg+depth", tmp_path / "mtan", "data.depth_unit=inverse")
    assert [task.num_outputs for task in build_tasks(config)] == [19, 1]
    config.data.semseg_classes = 7
    semseg, depth = build_tasks(config)
    assert semseg.class_names == ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
    assert depth.unit == "inverse"
    assert build_source(config, "train")[0]["semseg"].max() in (6, 255)
    wrong = config_of("cityscapes", "depth", tmp_path / "mtan")
    with pytest.raises(ConfigError, match=r"is in inverse, not in pixels; set --config\.data\.depth_unit=inverse"):
        build_source(wrong, "train")
    assert len(build_source(config_of("cityscapes", "semseg", tmp_path / "mtan"), "train")) == 4
    metres = config_of("cityscapes", "depth", tmp_path / "official", "data.depth_unit=metres")
    (depth,) = build_tasks(metres)
    assert (depth.unit, depth.label_spec.scales_inversely) == ("metres", True)
    assert len(build_source(metres, "val")) == 2
    (disparity,) = build_tasks(config_of("cityscapes", "depth", tmp_path / "official"))
    assert (disparity.unit, disparity.label_spec.scales_inversely) == ("pixels", False)
    with pytest.raises(ConfigError, match="got 8, but 'cityscapes' has 19"):
        build_tasks(config_of("cityscapes", "semseg", tmp_path / "mtan", "data.semseg_classes=8"))


def test_bad_files_stop_or_are_skipped(tmp_path):
    written = miniature.write_pascal(tmp_path, train=3, val=2)
    names = list(written["train"])
    (tmp_path / f"JPEGImages/{names[1]}.jpg").unlink()
    with pytest.raises(DataError, match=rf"{names[1]}\.jpg is missing"):
        build_source(config_of("pascal", "sal", tmp_path), "train")
    source = build_source(config_of("pascal", "sal", tmp_path, "data.on_bad_file=skip"), "train")
    assert isinstance(source, SkippingSource)
    assert [source[k]["id"] for k in range(3)] == [names[0], names[2], names[2]]
    assert f"{names[1]}.jpg is missing" in source.reason(1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.on_bad_file=ignore", "config: data.on_bad_file: unknown name 'ignore'. Known: stop skip"),
        ("data.depth_unit=meters", "config: data.depth_unit: unknown name 'meters'. Did you mean 'metres'?"),
        ("data.layout=offical", "config: data.layout: unknown name 'offical'. Did you mean 'official'?"),
    ],
)
def test_fields_are_checked(override, message):
    with pytest.raises(ConfigError) as caught:
        load_config("configs/smoke.py", [override])
    assert str(caught.value).startswith(message)


def test_a_root_is_needed():
    with pytest.raises(DataError, match=r"data: 'pascal' needs data\.root"):
        build_source(load_config("configs/smoke.py", ["data.name=pascal", "tasks=sal"]), "train")


def test_what_files_of_ones_own_mean_is_said_in_the_configuration(tmp_path):
    for split in ("train", "val"):
        for name in ("images", "semseg", "sal", "depth"):
            (tmp_path / split / name / "sub").mkdir(parents=True)
        white = np.repeat([[0], [255]], 16, 0).repeat(48, 1).astype(np.uint8)
        miniature.write_png(tmp_path / split / "images/sub/a.png", np.full((32, 48, 3), 90, np.uint8))
        for name in ("semseg", "sal"):
            miniature.write_grey_png(tmp_path / split / name / "sub/a.png", white)
        np.save(tmp_path / split / "depth/sub/a.npy", np.full((32, 48), 1500, np.uint16))
    config = config_of("folder", "semseg+sal+depth", tmp_path, "data.semseg_classes=2")
    with pytest.raises(DataError, match=r"--config\.data\.subfolders=true"):
        build_source(config, "train")
    config.data.subfolders = True
    with pytest.raises(DataError, match=r"--config\.data\.depth_unit=millimetres"):
        build_source(config, "train")[0]
    config.data.depth_unit = "millimetres"
    for mask_ignore, semseg, sal in ((None, 255, 1), (True, 255, 255), (False, 1, 1)):
        config.data.mask_ignore = mask_ignore
        validate(config)
        example = build_source(config, "train")[0]
        assert (example["semseg"][-1, 0], example["sal"][-1, 0]) == (semseg, sal)
        np.testing.assert_allclose(example["depth"], 1.5, rtol=1e-6)
    config.data.depth_unit = "pixels"
    with pytest.raises(ConfigError, match=r"config: data\.depth_unit of 'folder': unknown name 'pixels'"):
        build_source(config, "train")
