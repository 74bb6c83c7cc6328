"""Weight files: strict, checked, resized where windows differ."""

import io
import shlex
import zipfile

import numpy as np
import pytest

from ditask_jax.backbones import backbone_entry, create_backbone, list_models
from ditask_jax.errors import WeightsError
from ditask_jax.model import Classifier
from ditask_jax.nn import Scope, flatten, split_state
from ditask_jax.weight_files import encode_tensors
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
    from ditask_jax.training.experiment import build_model, load_backbone, weights_path

    config = load_config("configs/scenes.py", (f"backbone.name={name}",))
    path = weights_path(config)
    assert path.stat().st_size < 8e6
    load_backbone(build_model(config), path)
    assert read_weights(path)[1]["architecture"] == name


def _zip(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


PYTORCH = {"zip": _zip("swin/data.pkl", "swin/data/0"), "older": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M"}


@pytest.mark.parametrize(
    "name", ["swin.pth", "swin.pt", "pytorch_model.bin", "a b.ckpt", "swin.pth.tar", "w.safetensors"]
)
@pytest.mark.parametrize("kind", PYTORCH)
def test_a_pytorch_file_is_not_called_damaged_but_to_be_converted(name, kind, tmp_path):
    path = tmp_path / name
    path.write_bytes(PYTORCH[kind])
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    line = str(caught.value)
    assert line.startswith(f"weights: '{path}' is a PyTorch file that is not converted yet; run python -m ditask_jax.")
    words = shlex.split(line.partition("; run ")[2])
    out = tmp_path / {"w.safetensors": "w.ditask.safetensors"}.get(name, name.partition(".")[0] + ".safetensors")
    assert words[:5] == ["python", "-m", "ditask_jax.convert", str(path), str(out)]
    assert words[5:] == ["and", "give", str(out), "as", "weights"]


def test_a_foreign_safetensors_file_is_named_with_the_command(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode_tensors({"head.weight": np.ones(2)}, {"format": "pt"}))
    command = f"run python -m ditask_jax.convert {path} {tmp_path / 'model.ditask.safetensors'} and give "
    with pytest.raises(WeightsError, match="of another program") as caught:
        read_weights(path)
    assert command in str(caught.value)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b'{"metadata": {"total_size": 1}, "weight_map": {}}', "the index of weights"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
        (_zip("a.npy", "b.npy"), r"a NumPy archive"),
        (_zip("swin/readme.txt"), "a zip archive"),
    ],
)
def test_what_else_is_given_for_weights_is_called_by_its_name(content, kind, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=kind) as caught:
        read_weights(tmp_path / "w.safetensors")
    assert "damaged" not in str(caught.value)


def test_a_file_that_is_cut_off_is_still_called_damaged(tmp_path):
    """Whatever the first byte of its header's size happens to be: that of a web page too."""
    for size in range(512):
        (tmp_path / "w.safetensors").write_bytes((size + 2**12).to_bytes(8, "little") + b'{"a":')
        with pytest.raises(WeightsError, match="is damaged or no safetensors file"):
            read_weights(tmp_path / "w.safetensors")
