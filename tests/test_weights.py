"""Weight files: strict, checked, resized where windows differ."""

import numpy as np
import pytest

from ditask_jax.backbones import backbone_entry, create_backbone, list_models
from ditask_jax.classifier import Classifier
from ditask_jax.errors import WeightsError
from ditask_jax.nn import Scope, flatten, split_state
from ditask_jax.weights import assign, fit_backbone, read_weights, write_weights

ARRAYS = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}


def test_round_trip(tmp_path):
    write_weights(tmp_path / "w.safetensors", ARRAYS, architecture="x")
    arrays, metadata = read_weights(tmp_path / "w.safetensors")
    assert metadata["architecture"] == "x"
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, ARRAYS)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 200):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            arrays, _ = read_weights(path)
        except WeightsError:
            continue
        # A flip in white space or in a description we do not compare may pass, but never with other numbers.
        assert set(arrays) == set(ARRAYS)
        assert all((arrays[name] == ARRAYS[name]).all() for name in ARRAYS)


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_truncated_files(tmp_path, keep):
    path = tmp_path / "w.safetensors"
    write_weights(path, ARRAYS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(path)


def test_missing_file_names_its_neighbour(tmp_path):
    write_weights(tmp_path / "swin.safetensors", ARRAYS)
    with pytest.raises(WeightsError, match=r"Did you mean 'swin.safetensors'"):
        read_weights(tmp_path / "swn.safetensors")


def test_assign_reports_everything_at_once():
    model = Classifier(create_backbone("swin_test", 64), 3)
    arrays = {k: np.asarray(v) for k, v in flatten(split_state(model).trainable).items()}
    arrays["extra"] = np.zeros(1)
    del arrays["head/bias"]
    arrays["norm/scale"] = np.zeros(5)
    with pytest.raises(WeightsError, match=r"1 missing: head/bias; 1 unexpected: extra; 1 wrong shape: norm/scale"):
        assign(model, arrays)


def test_tables_are_resized_to_the_window():
    small, large = (create_backbone("swin_nano_patch2_window6", size, 0.0, Scope(seed=1)) for size in (48, 96))
    arrays = {k: np.asarray(v) for k, v in flatten(split_state(small).trainable).items()}
    shapes = {k: v.shape for k, v in flatten(split_state(large).trainable).items()}
    fitted = fit_backbone(large, arrays)
    assert {k: v.shape for k, v in fitted.items()} == shapes
    assign(large, fitted)
    last = "stages/3/blocks/0/attn/relative_position_bias_table"
    assert fitted[last].shape != arrays[last].shape
    np.testing.assert_array_equal(fitted["patch_embed/kernel"], arrays["patch_embed/kernel"])


@pytest.mark.parametrize("name", [n for n in list_models() if backbone_entry(n).embedded_weights])
def test_embedded_weights_are_whole(name):
    from ditask_jax.config import load_config
    from ditask_jax.training.build import build_model, load_backbone, weights_path

    config = load_config("configs/scenes.py", (f"backbone.name={name}",))
    path = weights_path(config)
    assert path.stat().st_size < 8e6
    load_backbone(build_model(config), path)
    assert read_weights(path)[1]["architecture"] == name
