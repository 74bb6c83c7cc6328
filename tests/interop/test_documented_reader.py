"""The plain-PyTorch reader of docs/weights.md against recorded outputs of reference code; nothing of ours computes."""

import json
import pathlib
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ditask_jax.backbones.swin import SwinConfig
from ditask_jax.conversion.swin_names import swin_buffers
from tests.parity.golden import Golden, find, size

DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "weights.md"


def documented_loader():
    """The function `load` of the documentation."""
    found = re.findall(r"```python\n(import json\n.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(found) == 1
    names: dict = {}
    exec(compile(found[0], str(DOCUMENT), "exec"), names)
    return names["load"]


def _fan_out(tensors: dict, block: str, tasks: list[str]) -> None:
    """One kernel per stream, all equal, and one layer that reads the shared stream only: the outputs stay the same."""
    for name in (f"{block}.attn.proj", f"{block}.mlp.fc1", f"{block}.mlp.fc2"):
        kernel = tensors.pop(f"{name}.weight")
        last = name.endswith("fc2")
        for stream in ("shared", *tasks):
            tensors[f"{name}.streams.{stream}.weight"] = kernel * 0 if last else kernel.clone()
        if last:
            tensors[f"{name}.from_shared.weight"] = kernel


@pytest.mark.parametrize("streams", [False, True], ids=["one stream", "fanned out"])
@pytest.mark.parametrize("path", find("full"), ids=lambda path: path.stem)
def test_recorded_outputs(path, streams, tmp_path):
    golden = Golden(path)
    meta = golden.meta
    tensors = {n: torch.from_numpy(np.ascontiguousarray(a, np.float32)) for n, a in golden.under("param/").items()}
    config = SwinConfig(meta["embed_dim"], tuple(meta["depths"]), tuple(meta["heads"]), window=meta["window"])
    for name, buffer in swin_buffers(config, size(meta["img"])).items():
        tensors[f"backbone.{name}"] = torch.from_numpy(buffer)
    if streams:
        _fan_out(tensors, "backbone.layers.1.blocks.1", meta["tasks"])
    described = {
        "mean": [0, 0, 0],
        "std": [1 / 255] * 3,
        "tasks": {name: meta["num_output"][name] for name in meta["tasks"]},
        "config": {"patch": 4, "depths": meta["depths"], "heads": meta["heads"]},
    }
    save_file(tensors, tmp_path / "x.safetensors", {"model": json.dumps(described)})
    images = torch.from_numpy(np.ascontiguousarray(golden["in/x"].transpose(0, 2, 3, 1), np.float32))
    where = "out/final" if golden.has("out/final/") else "out/final_sub"
    rows, columns = (1, 1) if where == "out/final" else map(int, re.findall(r"::(\d+)", meta["final_sub"]))
    for task, logits in documented_loader()(tmp_path / "x.safetensors")(images).items():
        got = logits.numpy().transpose(0, 3, 1, 2)[:, :, ::rows, ::columns]
        np.testing.assert_allclose(got, golden[f"{where}/{task}"], atol=1e-4, rtol=0, err_msg=task)
