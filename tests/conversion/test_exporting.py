"""Weights out: what came in comes back bit for bit, and what a layout cannot hold is refused."""

import json

import jax
import numpy as np
import pytest

from ditask_jax.adapters import DiTASK, Frozen, merge, wrap
from ditask_jax.adapters.method_registry import method_class
from ditask_jax.conversion import swin_names
from ditask_jax.conversion.exporting import export_weights
from ditask_jax.conversion.importing import convert_weights
from ditask_jax.errors import WeightsError
from ditask_jax.model import create_model
from ditask_jax.nn import flatten, split_state, unflatten
from ditask_jax.training.experiment import load_backbone
from ditask_jax.weight_files import read_tensors
from tests.adapters.cases import task_list
from tests.conversion.cases import DTYPES, ONE_STREAM_LAYOUTS, SIZE, TEST_MODELS, foreign, model_of, write


def make(backbone: str = "swin_test", weights=None, method=None, tasks=("semseg", "depth")):
    model = create_model(backbone, task_list(*tasks), SIZE, widths=(4, 4, 4, 4))
    if weights is not None:
        load_backbone(model, weights)
    if method is not None:
        wrap(model, method)
    return model


def converted(folder, layout, dtype=np.float32):
    source = write(folder / "source.safetensors", foreign(layout, dtype=dtype))
    convert_weights(source).write(folder / "ours.safetensors")
    return folder / "ours.safetensors"


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [(layout, "float32") for layout in ONE_STREAM_LAYOUTS] + [(swin_names.SWIN_OFFICIAL, dtype) for dtype in DTYPES],
    ids=lambda value: getattr(value, "title", value),
)
def test_what_came_in_comes_back(layout, dtype, tmp_path):
    weights = converted(tmp_path, layout, DTYPES[dtype])
    model = make(model_of(layout), weights, Frozen())
    report = export_weights(tmp_path / "back.safetensors", model, layout.name)
    source, _ = read_tensors(tmp_path / "source.safetensors", "it")
    back, metadata = read_tensors(tmp_path / "back.safetensors", "it")
    assert back.keys() == source.keys()
    for name, tensor in source.items():
        assert back[name].dtype == tensor.dtype, name
        assert back[name].tobytes() == tensor.tobytes(), name
    assert metadata["format"] == "pt"
    assert not report.notes
    assert report.untouched > 0


def test_every_pair_of_layouts(tmp_path):
    weights = converted(tmp_path, swin_names.SWIN_TIMM)
    model = make("swin_test", weights, Frozen())
    export_weights(tmp_path / "official.safetensors", model, "official")
    export_weights(tmp_path / "hf.safetensors", model, "huggingface")
    first = convert_weights(tmp_path / "source.safetensors").arrays
    for name in ("official", "hf"):
        again = convert_weights(tmp_path / f"{name}.safetensors")
        assert again.arrays.keys() == first.keys()
        assert all(again.arrays[path].tobytes() == first[path].tobytes() for path in first)


def test_what_training_changed_is_float32(tmp_path):
    weights = converted(tmp_path, swin_names.SWIN_TIMM, np.float16)
    model = make("swin_test", weights, DiTASK(shared_cells=4, task_layers=()))
    parts = split_state(model)
    path = "backbone/stages/0/blocks/0/attn/qkv/adapter/theta_shared"
    moved = flatten(parts.trainable) | {path: flatten(parts.trainable)[path] + 0.5}
    state = (unflatten(moved, parts.trainable), parts.stats)
    export_weights(tmp_path / "out.safetensors", model, "timm", state)
    tensors, _ = read_tensors(tmp_path / "out.safetensors", "it")
    source, _ = read_tensors(tmp_path / "source.safetensors", "it")
    name = "layers.0.blocks.0.attn.qkv.weight"
    assert tensors[name].dtype == np.float32
    assert not np.array_equal(tensors[name], source[name].astype(np.float32))
    merged = merge(model, state).backbone.stages[0].blocks[0].attn.qkv.kernel[...]
    np.testing.assert_array_equal(tensors[name], np.asarray(merged).T)
    # Norms have not moved, and nothing else that is stored as it is.
    assert tensors["layers.0.blocks.0.norm1.weight"].tobytes() == source["layers.0.blocks.0.norm1.weight"].tobytes()
    assert tensors["head.fc.weight"].tobytes() == source["head.fc.weight"].tobytes()


def test_random_weights_have_no_classifier(tmp_path):
    report = export_weights(tmp_path / "x.safetensors", make(method=Frozen()), "timm")
    assert "without final norm and classifier" in str(report)
    assert not any(name.startswith(("norm.", "head")) for name in read_tensors(report.path, "it")[0])


def test_streams_do_not_fit_into_one(tmp_path):
    model = make(method=DiTASK(shared_cells=4, task_cells=4))
    message = (
        r"'timm' holds one kernel per layer, but 12 layers .* one for each of shared semseg depth. Use --layout ditask"
    )
    with pytest.raises(WeightsError, match=message):
        export_weights(tmp_path / "x.safetensors", model, "timm")
    assert not list(tmp_path.iterdir())


def test_nonlinear_adapters_have_no_kernel(tmp_path):
    with pytest.raises(WeightsError, match="no kernel can stand for the adapters"):
        export_weights(tmp_path / "x.safetensors", make(method=method_class("adapter")()), "ditask")


def test_other_mistakes(tmp_path):
    weights = converted(tmp_path, swin_names.SWIN_OFFICIAL)
    model = make("swin_test", weights, Frozen())
    with pytest.raises(WeightsError, match=r"unknown name 'tim'. Did you mean 'timm'"):
        export_weights(tmp_path / "x.safetensors", model, "tim")
    other = write(tmp_path / "other_source.safetensors", foreign(swin_names.SWIN_OFFICIAL, seed=1))
    convert_weights(other).write(tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="is not the file that the backbone was loaded from"):
        export_weights(tmp_path / "x.safetensors", model, "timm", source=tmp_path / "other.safetensors")
    link = tmp_path / "link.safetensors"
    link.symlink_to(weights)
    for target in (weights, link):
        with pytest.raises(WeightsError, match="is the weight file that the model started from; write to another file"):
            export_weights(target, model, "timm")
    link.unlink()
    weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(WeightsError, match="is not there; it holds the final norm and the classifier"):
        export_weights(tmp_path / "x.safetensors", model, "timm")
    export_weights(tmp_path / "x.safetensors", model, "timm", source=tmp_path / "moved.safetensors")
    with pytest.raises(WeightsError, match="did not start from a weight file"):
        export_weights(tmp_path / "x.safetensors", make(method=Frozen()), "timm", source=weights)


@pytest.mark.parametrize("backbone", TEST_MODELS.values())
def test_all_streams(backbone, tmp_path):
    """Every number of a merged model is in the file, once."""
    # MTLoRA is merged in a moment, and has a second kernel for what tasks read of the shared stream.
    ditask = DiTASK(shared_cells=4, task_cells=4, init="upstream")
    model = make(backbone, method=ditask if backbone == "swin_test" else method_class("mtlora")())
    report = export_weights(tmp_path / "x.safetensors", model)
    tensors, metadata = read_tensors(report.path, "it")
    merged = split_state(merge(model))
    numbers = sum(
        leaf.size for tree in (merged.trainable, merged.frozen, merged.stats) for leaf in jax.tree.leaves(tree)
    )
    buffers = {name for name in tensors if name.endswith(("relative_position_index", "attn_mask"))}
    assert sum(tensor.size for name, tensor in tensors.items() if name not in buffers) == numbers
    streams = {name.split(".streams.")[1] for name in tensors if ".streams." in name}
    assert streams == {"shared.weight", "semseg.weight", "depth.weight"}
    described = json.loads(metadata["model"])
    assert described["tasks"] == {"semseg": 5, "depth": 1}
    assert described["image_size"] == [SIZE, SIZE]
    assert "decoders.decoders.semseg.last_layer.1.running_var" in tensors
    name = next(n for n in tensors if n.endswith(".mlp.fc2.streams.depth.weight"))
    stem = name.removesuffix(".streams.depth.weight").removeprefix("backbone.")
    assert f"backbone.{stem}.weight" not in tensors
    assert f"backbone.{stem}.bias" in tensors
