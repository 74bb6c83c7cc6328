"""Weights in several safetensors files with an index."""

import json
import shutil

import numpy as np
import pytest

from ditask_jax.conversion import vit_names
from ditask_jax.conversion.importing import convert_weights
from ditask_jax.conversion.weight_sources import read_source
from ditask_jax.errors import WeightsError
from ditask_jax.weight_files import encode_tensors, read_weights
from tests.conversion.cases import foreign, write

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path):
    """A ViT in three files; gives the folder, the index and the tensors."""
    tensors, folder = foreign(vit_names.VIT_TIMM), tmp_path / "sharded"
    folder.mkdir()
    names = sorted(tensors)
    index = {"metadata": {"total_size": sum(a.nbytes for a in tensors.values())}, "weight_map": {}}
    for number in range(3):
        file = f"model-{number + 1:05}-of-00003.safetensors"
        index["weight_map"] |= dict.fromkeys(names[number::3], file)
        write(folder / file, {name: tensors[name] for name in names[number::3]})
    (folder / INDEX).write_text(json.dumps(index))
    return folder, index, tensors


def test_shards_are_read_as_one_file(sharded, tmp_path):
    folder, _, tensors = sharded
    whole = convert_weights(write(tmp_path / "whole.safetensors", tensors))
    for path in (folder / INDEX, folder):  # the folder of save_pretrained has one index
        found = convert_weights(path)
        assert (found.architecture, found.metadata["source"]) == (whole.architecture, INDEX)
        assert all(found.arrays[name].tobytes() == array.tobytes() for name, array in whole.arrays.items())
    found.write(tmp_path / "ours.safetensors")
    assert read_weights(tmp_path / "ours.safetensors")[1]["source_sha256"] == found.source.sha256


def test_the_hash_is_that_of_all_files(sharded):
    folder, _, tensors = sharded
    before = read_source(folder / INDEX).sha256
    assert read_source(folder / INDEX).sha256 == before
    shard = folder / "model-00002-of-00003.safetensors"
    name = sorted(tensors)[1]
    changed = {n: tensors[n] for n in sorted(tensors)[1::3]} | {name: tensors[name] + 1}
    write(shard, changed)
    assert read_source(folder / INDEX).sha256 != before


def _replaced(index, **fields):
    return json.dumps(index | fields)


def _spoil(folder, index, kind):
    shard = folder / "model-00002-of-00003.safetensors"
    first = next(name for name, file in index["weight_map"].items() if file == shard.name)
    if kind == "missing shard":
        shard.unlink()
    elif kind == "cut off":
        shard.write_bytes(shard.read_bytes()[:-5])
    elif kind == "left over":
        del index["weight_map"][first]
        (folder / INDEX).write_text(json.dumps(index))
    elif kind == "promised":
        index["weight_map"]["blocks.9.x"] = shard.name
        (folder / INDEX).write_text(json.dumps(index))
    elif kind == "elsewhere":
        shutil.copy(shard, folder.parent / "x.safetensors")
        (folder / INDEX).write_text(_replaced(index, weight_map=dict.fromkeys(index["weight_map"], "../x.safetensors")))
    elif kind == "no map":
        (folder / INDEX).write_text(_replaced(index, weight_map=["x"]))
    elif kind == "pickled":
        (folder / INDEX).write_text(_replaced(index, weight_map={"x": "pytorch_model-00001.bin"}))
    elif kind == "no JSON":
        (folder / INDEX).write_text("{" + "[" * 3)
    else:
        raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing shard", r"names 'model-00002-of-00003.safetensors', which is not beside it; fetch it too"),
        ("cut off", r"model-00002-of-00003.safetensors' is damaged"),
        ("left over", r"without a place in the index: "),
        ("promised", r"1 missing from their files: blocks\.9\.x"),
        ("elsewhere", r"names '\.\./x\.safetensors', expected the name of a \.safetensors file in its own folder"),
        ("no map", r"has no usable weight_map"),
        ("pickled", r"names 'pytorch_model-00001\.bin', expected the name of a \.safetensors file"),
        ("no JSON", r"is JSON text that cannot be read|has no usable weight_map"),
    ],
)
def test_what_does_not_belong_together_is_told(sharded, kind, message):
    folder, index, _ = sharded
    _spoil(folder, index, kind)
    with pytest.raises(WeightsError, match=message) as error:
        read_source(folder / INDEX)
    assert "\n" not in str(error.value)


def test_a_shard_alone_names_the_index(sharded):
    folder, _, _ = sharded
    with pytest.raises(WeightsError, match=r"is one of several files; give their index, '.*index\.json'"):
        read_source(folder / "model-00001-of-00003.safetensors")


def test_where_weights_are_loaded_an_index_is_told_from_a_weight_file(sharded, tmp_path):
    folder, _, _ = sharded
    with pytest.raises(WeightsError, match=r"the index of weights in several files that are not converted yet; run "):
        read_weights(folder / INDEX)
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(WeightsError, match=r"is JSON text"):
        read_weights(tmp_path / "x.json")


def test_a_file_of_ours_named_as_a_shard_is_read(tmp_path):
    """Without an index beside it a name of that kind means nothing."""
    path = tmp_path / "model-00001-of-00003.safetensors"
    path.write_bytes(encode_tensors({"a": np.zeros(1, np.float32)}, {}))
    assert read_source(path).arrays.keys() == {"a"}
