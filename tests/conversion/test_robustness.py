"""Damaged and hostile files: never other numbers, never a crash, never code."""

import json
import os

import numpy as np
import pytest

from ditask_jax.conversion import swin_names
from ditask_jax.conversion.importing import convert_weights
from ditask_jax.conversion.weight_sources import read_source
from ditask_jax.errors import DitaskError, WeightsError
from ditask_jax.weight_files import _describe, checksum, encode_tensors, read_tensors, read_weights, write_weights
from ditask_jax.weights import described_images
from tests.conversion.cases import foreign, write

ARRAYS = {
    "backbone/a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "backbone/a/bias": np.linspace(-1, 1, 5, dtype=np.float16),
    "norm/scale": np.array([[1.5]], np.float64),
    "empty": np.zeros((0, 3), np.float32),
}
DESCRIPTION = {"architecture": "swin_test", "mean": "[0.5, 0.5, 0.5]", "image_size": "[64, 64]"}
MUTATIONS = 10_000


def check_one_line(error: DitaskError) -> None:
    assert "\n" not in str(error)


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """One of the things that happen to files: flipped bits, other bytes, cuts, insertions, repeated pieces."""
    data = bytearray(content)
    kind, place = int(rng.integers(7)), int(rng.integers(len(data)))
    length = int(rng.integers(1, 16))
    if kind == 0:
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data[place] = int(rng.integers(256))
    elif kind == 2:
        del data[place:]
    elif kind == 3:
        data[place:place] = rng.bytes(length)
    elif kind == 4:
        del data[place : place + length]
    elif kind == 5:
        other = int(rng.integers(len(data)))
        data[place : place + length] = data[other : other + length]
    else:
        digits = [i for i, byte in enumerate(data) if 48 <= byte < 58]
        data[digits[int(rng.integers(len(digits)))]] = 48 + int(rng.integers(10))
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_no_mutated_weight_file_loads_with_other_content(tmp_path, seed):
    path = tmp_path / "w.safetensors"
    write_weights(path, ARRAYS, **DESCRIPTION)
    whole, expected = path.read_bytes(), read_weights(path)
    rng = np.random.default_rng(seed)
    loaded = 0
    for _ in range(MUTATIONS // 4):
        mutated = mutate(whole, rng)
        path.write_bytes(mutated)
        try:
            arrays, metadata = read_weights(path)
        except WeightsError as error:
            check_one_line(error)
            continue
        loaded += 1
        assert metadata == expected[1]
        assert arrays.keys() == expected[0].keys()
        for name, array in expected[0].items():
            assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
            assert arrays[name].tobytes() == array.tobytes()
    # Nearly all are noticed; the others change nothing (a bit that was set already, white space).
    assert loaded < MUTATIONS // 40


def test_files_of_the_first_format_are_still_read(tmp_path):
    path = tmp_path / "w.safetensors"
    metadata = {"format": "ditask_jax/weights/1", "checksum": checksum(ARRAYS), "architecture": "x"}
    path.write_bytes(encode_tensors(ARRAYS, metadata))
    assert read_weights(path)[1]["architecture"] == "x"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError, match="do not match its checksum"):
        read_weights(path)


@pytest.mark.parametrize("hashes", [None, "[1]", "x", "3", "[" * 100_000])
def test_well_hashed_descriptions_without_hashes(tmp_path, hashes):
    path = tmp_path / "w.safetensors"
    write_weights(path, ARRAYS, **DESCRIPTION)
    arrays, metadata = read_tensors(path, "it")
    described = {name: text for name, text in metadata.items() if name not in ("checksum", "hashes")}
    described |= {} if hashes is None else {"hashes": hashes}
    path.write_bytes(encode_tensors(arrays, described | {"checksum": _describe(described)}))
    with pytest.raises(WeightsError, match="has no usable list of hashes"):
        read_weights(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [("mean", text) for text in ("x", "[1]", '["a", "b", "c"]', "{}", "[" * 100_000, "[1e999, 0, 0]", "null")]
    + [("std", "[0, 1, 1]"), ("std", "[NaN, 1, 1]")]
    + [("image_size", text) for text in ("[-4, 64]", "[1, 2, 3]", "0", "true", "[64")],
)
def test_descriptions_of_images_that_cannot_be_used(name, text):
    with pytest.raises(WeightsError, match=f"it: its description has {name} .* which cannot be used") as error:
        described_images({name: text}, "it")
    check_one_line(error.value)


def test_damaged_tensors_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, ARRAYS)
    content = path.read_bytes()
    path.write_bytes(content.replace(ARRAYS["backbone/a/kernel"].tobytes(), b"\x07" * 24))
    with pytest.raises(WeightsError, match="1 with other numbers: backbone/a/kernel"):
        read_weights(path)


@pytest.mark.parametrize("seed", range(2))
def test_mutated_foreign_files_give_one_line(tmp_path, seed):
    path = tmp_path / "x.safetensors"
    tensors = {name: tensor for name, tensor in foreign(swin_names.SWIN_OFFICIAL).items() if "layers.3" not in name}
    whole = write(path, tensors).read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8
    rng = np.random.default_rng(seed)
    for _ in range(250):
        # The header is where a parser can go wrong; the numbers behind it are just numbers.
        path.write_bytes(mutate(whole[:header], rng) + whole[header:])
        try:
            convert_weights(path)
        except DitaskError as error:
            check_one_line(error)


def _header(size: int, text: bytes = b"{}") -> bytes:
    return size.to_bytes(8, "little") + text


HOSTILE = {
    "oversized": _header(2**62),
    "larger than the file": _header(1000),
    "hundreds of megabytes": _header(500_000_000, b"{" + b" " * 64),
    "no JSON": _header(4, b"\xff\xfe{}"),
    "deep": _header(200_000, b'{"a":' * 40_000),
    "empty": b"",
    "offsets outside": _header(62, b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,9999999999]}}'[:62]),
    "shape overflow": _header(
        88, b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,16],"data_offsets":[0,4]}}'.ljust(88)
    ),
    "negative": _header(72, b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}'.ljust(72)) + b"1234",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("read", [read_weights, read_source], ids=["ours", "foreign"])
def test_hostile_headers_are_refused(tmp_path, name, read):
    path = tmp_path / "x.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(WeightsError, match="damaged or no safetensors file") as error:
        read(path)
    assert len(str(error.value)) < 600


def test_types_that_are_not_read_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    text = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"12")
    with pytest.raises(WeightsError, match=r"types that are not read: a \(F8_E4M3\)"):
        read_source(path)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a//b", "a/../b", "a\\b", ".", "a\nb", ""])
def test_names_that_look_like_paths(tmp_path, name):
    with pytest.raises(ValueError, match="cannot hold"):
        write_weights(tmp_path / "x.safetensors", {name: np.zeros(1)})
    tensors = foreign(swin_names.SWIN_OFFICIAL) | {name: np.zeros(1, np.float32)}
    before = sorted(tmp_path.iterdir())
    with pytest.raises(WeightsError, match="of unknown name"):
        convert_weights(write(tmp_path / "y.safetensors", tensors))
    assert sorted(tmp_path.iterdir()) == [*before, tmp_path / "y.safetensors"]


def test_names_are_shown_on_one_line(tmp_path):
    names = ("a\nb", "c\x1b[31md")
    tensors = foreign(swin_names.SWIN_OFFICIAL) | {name: np.zeros(1, np.float32) for name in names}
    with pytest.raises(WeightsError, match=r"2 of unknown name: a\\nb, c\\x1b\[31md") as error:
        convert_weights(write(tmp_path / "y.safetensors", tensors))
    check_one_line(error.value)


def test_the_same_source_gives_the_same_file(tmp_path):
    """An export knows the weight file it started from by its checksum, and a lost one can be made again."""
    source = write(tmp_path / os.fsdecode(b"w\xff.safetensors"), foreign(swin_names.SWIN_OFFICIAL))
    found = set()
    for _ in range(12):
        convert_weights(source).write(tmp_path / "out.safetensors")
        found.add((tmp_path / "out.safetensors").read_bytes())
    assert len(found) == 1
    assert read_weights(tmp_path / "out.safetensors")[1]["source"] == r"w\udcff.safetensors"


def test_a_home_that_does_not_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="no such file"):
        read_source("~nobody-of-that-name/x.safetensors")


def test_links_are_replaced_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    link = tmp_path / "out.safetensors"
    link.symlink_to(victim)
    source = write(tmp_path / "x.safetensors", foreign(swin_names.SWIN_OFFICIAL))
    convert_weights(source).write(link)
    assert victim.read_text() == "precious"
    assert not link.is_symlink()
    assert read_weights(link)[1]["architecture"] == "swin_test"


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")  # opening it would wait for a writer for ever
    for read in (read_weights, read_source):
        with pytest.raises(WeightsError, match=r"no (such )?file"):
            read(tmp_path / "pipe.safetensors")
