"""PyTorch files: read without running code, whatever is in them."""

import collections
import os
import pickle
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch

from ditask_jax import cli, convert
from ditask_jax.conversion import multitask_layouts, swin_names
from ditask_jax.conversion.importing import convert_weights
from ditask_jax.conversion.weight_sources import read_source
from ditask_jax.errors import DitaskError, WeightsError
from tests.conversion.cases import foreign, our_arrays
from tests.conversion.test_robustness import check_one_line, mutate


def tensors(layout, **options):
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in foreign(layout, **options).items()}


def saved(path, content):
    torch.save(content, path)
    return path


def same(conversion, layout):
    expected = our_arrays(layout)
    return all(conversion.arrays[path].tobytes() == array.tobytes() for path, array in expected.items())


@pytest.mark.parametrize("container", ["model", "state_dict", "model_state_dict", None])
def test_containers(container, tmp_path):
    state = tensors(swin_names.SWIN_OFFICIAL)
    content = state if container is None else {container: state, "epoch": 3, "optimizer": {"state": {}}}
    conversion = convert_weights(saved(tmp_path / "x.pth", content))
    assert same(conversion, swin_names.SWIN_OFFICIAL)
    assert ("epoch" in conversion.ignored) == (container is not None)


def test_types_keep_their_bits(tmp_path):
    state = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in tensors(swin_names.SWIN_OFFICIAL).items()
    }
    conversion = convert_weights(saved(tmp_path / "x.pth", state))
    array = conversion.arrays["norm/scale"]
    assert array.dtype == ml_dtypes.bfloat16
    assert array.tobytes() == our_arrays(swin_names.SWIN_OFFICIAL)["norm/scale"].astype(ml_dtypes.bfloat16).tobytes()


def test_the_old_format_of_pytorch(tmp_path):
    path = tmp_path / "x.pth"
    torch.save(tensors(swin_names.SWIN_TIMM), path, _use_new_zipfile_serialization=False)
    assert same(convert_weights(path), swin_names.SWIN_TIMM)


@pytest.fixture
def yacs():
    """A stand-in for the package that training checkpoints were written with; gone when they are read."""
    package, module = types.ModuleType("yacs"), types.ModuleType("yacs.config")

    class CfgNode(dict):
        def __init__(self, values):
            super().__init__(values)
            self.__dict__["__immutable__"] = True

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    package.config, module.CfgNode = module, CfgNode
    sys.modules |= {"yacs": package, "yacs.config": module}
    yield CfgNode
    for name in ("yacs", "yacs.config"):
        sys.modules.pop(name, None)


def test_training_checkpoints_with_their_configuration(tmp_path, yacs):
    ours = our_arrays(multitask_layouts.DITASK) | {"necks/semseg/convs/0/kernel": np.ones((16, 4), np.float32)}
    ours = {path: array for path, array in ours.items() if not path.startswith(("norm", "head/"))}
    ours["backbone/stages/0/blocks/0/attn/proj/adapter/theta_semseg"] = np.ones(3, np.float32)
    ours["backbone/stages/0/blocks/0/attn/qkv/adapter/theta_semseg"] = np.ones(3, np.float32)
    state, unknown = multitask_layouts.DITASK.write(ours, prefixed=True)
    assert not unknown
    state = {
        name.replace(".attn.qkv.", ".attn.qkv.linear.") if "lora" not in name else name: a for name, a in state.items()
    }
    state = {name: torch.from_numpy(array.copy()) for name, array in state.items()}
    config = yacs(
        {"MODEL": yacs({"TYPE": "swin", "MTLORA": yacs({"R": [64, 64], "ENABLED": True})}), "TASKS": ["semseg"]}
    )
    content = {"model": state, "config": config, "max_accuracy": np.float64(0.5), "epoch": 2, "scaler": {}}
    path = saved(tmp_path / "ckpt_epoch_2.pth", content)
    for name in ("yacs", "yacs.config"):
        del sys.modules[name]
    conversion = convert_weights(path)
    assert conversion.layout is multitask_layouts.DITASK
    assert '"R": [64, 64]' in conversion.metadata["source_config"]
    assert "necks/semseg/convs/0/kernel" in conversion.arrays
    assert "backbone/stages/0/blocks/0/attn/proj/adapter/theta_semseg" in conversion.arrays
    dead = "backbone.layers.0.blocks.0.attn.qkv.lora_tasks_A.semseg"
    assert "unused" in conversion.ignored[dead]


class Hostile:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def _hostile(folder):
    flag = str(folder / "flag")
    return {
        "os.system": Hostile(os.system, f"touch {flag}"),
        "builtins.eval": Hostile(eval, f"open({flag!r}, 'w')"),
        "builtins.exec": Hostile(exec, f"open({flag!r}, 'w')"),
        "builtins.open": Hostile(open, flag, "w"),
        "builtins.getattr": Hostile(getattr, collections.OrderedDict, "update"),
        "os.mkdir": Hostile(os.mkdir, flag),
        "pickle.loads": Hostile(pickle.loads, pickle.dumps(Hostile(os.system, f"touch {flag}"))),
        "torch.load": Hostile(torch.load, flag),
        "torch.hub.load": Hostile(torch.hub.load, "owner/name", "model"),
    }


NAMES = list(_hostile(__import__("pathlib").Path("x")))


@pytest.mark.parametrize("where", ["inside", "beside", "whole"])
@pytest.mark.parametrize("name", NAMES)
def test_hostile_pickles_run_nothing(name, where, tmp_path, capsys):
    flag = tmp_path / "out" / "flag"
    flag.parent.mkdir()
    thing, state = _hostile(flag.parent)[name], tensors(swin_names.SWIN_OFFICIAL)
    content = {"inside": state | {"x": thing}, "beside": {"model": state, "config": thing}, "whole": thing}[where]
    path = tmp_path / "x.pth"
    path.write_bytes(b"")
    if where == "whole":
        path.write_bytes(pickle.dumps(thing, protocol=2))
    else:
        torch.save(content, path)
    assert cli.execute(convert.main, [str(path), str(tmp_path / "o.safetensors")]) == cli.USER_ERROR
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert where == "whole" or "nothing was run" in text or "damaged" in text
    assert not list(flag.parent.iterdir())
    assert not (tmp_path / "o.safetensors").exists()


def test_stand_ins_do_nothing(tmp_path):
    """Names of the allow-list are read as dead data even when a pickle calls them with something."""
    import argparse
    import pathlib

    args = argparse.Namespace(output_dir=pathlib.PosixPath("/etc"), run=os.fspath("/bin/sh"))
    path = saved(tmp_path / "x.pth", {"model": tensors(swin_names.SWIN_OFFICIAL), "args": args, "best": np.float32(1)})
    conversion = convert_weights(path)
    assert same(conversion, swin_names.SWIN_OFFICIAL)
    assert {"args", "best"} <= conversion.ignored.keys()


def test_a_configuration_that_holds_itself(tmp_path):
    """Copied without a bound it would have 12 to the power of 8 entries."""
    config: dict = {"R": [64, 64], "name\ud800": 1}
    config |= {f"key{index}": config for index in range(12)}
    content = {"model": tensors(swin_names.SWIN_OFFICIAL), "config": config, "epoch\ud800\n": 3}
    conversion = convert_weights(saved(tmp_path / "x.pth", content))
    assert '"R": [64, 64]' in conversion.metadata["source_config"]
    assert len(conversion.metadata["source_config"]) < 1_000_000
    assert conversion.summary().encode()  # what cannot be encoded is spelled out
    assert r"epoch\ud800\n" in conversion.ignored


def test_one_storage_under_many_names(tmp_path):
    shared = torch.zeros(100_000)
    state = {"model": tensors(swin_names.SWIN_OFFICIAL) | {f"x{index}": shared for index in range(40)}}
    with pytest.raises(WeightsError, match=r"claim 16,\d+,\d+ bytes, more than 8 times the file"):
        read_source(saved(tmp_path / "x.pth", state))


def test_archives_that_grow(tmp_path):
    saved(tmp_path / "x.pth", tensors(swin_names.SWIN_OFFICIAL) | {"x": torch.zeros(1_000_000)})
    with zipfile.ZipFile(tmp_path / "x.pth") as plain, zipfile.ZipFile(tmp_path / "small.pth", "w", 8) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(WeightsError, match="no file of PyTorch"):
        read_source(tmp_path / "small.pth")


def test_tensors_that_claim_more_than_is_stored(tmp_path):
    state = tensors(swin_names.SWIN_OFFICIAL)
    state["norm.weight"] = torch.zeros(1).expand(64)
    with pytest.raises(WeightsError, match="has more numbers than are stored"):
        read_source(saved(tmp_path / "x.pth", state))
    state["norm.weight"] = torch.zeros(8, 8).to_sparse()
    with pytest.raises(WeightsError, match="is not a plain dense one"):
        read_source(saved(tmp_path / "x.pth", state))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
def test_mutated_files_give_one_line(tmp_path, new):
    path = tmp_path / "x.pth"
    state = {name: tensor for name, tensor in tensors(swin_names.SWIN_OFFICIAL).items() if "layers.3" not in name}
    torch.save({"model": state, "epoch": 1}, path, _use_new_zipfile_serialization=new)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    pickled = whole.find(b"layers.0"), whole.rfind(b"layers.2")
    for number in range(120):
        # Every second change hits the pickle, which is a small part of the file.
        start, end = pickled if number % 2 else (0, len(whole))
        path.write_bytes(whole[:start] + mutate(whole[start:end], rng) + whole[end:])
        try:
            convert_weights(path)
        except DitaskError as error:
            check_one_line(error)
