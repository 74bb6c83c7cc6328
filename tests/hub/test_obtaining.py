"""Foreign weights as they are, and what a run records of weights from a hub; nothing here needs a network."""

import errno
import json
import os
import pathlib
import re

import numpy as np
import pytest

from configs import base
from ditask_jax.backbones import backbone_entry
from ditask_jax.config import load_config
from ditask_jax.conversion import swin_names
from ditask_jax.conversion.importing import convert_weights
from ditask_jax.conversion.obtaining import is_foreign, obtain_weights
from ditask_jax.describe.summary import weights_text
from ditask_jax.errors import CheckpointError, WeightsError
from ditask_jax.hub.addresses import HubAddress, sha256_of
from ditask_jax.model import Pretrained, create_model
from ditask_jax.nn import flatten, split_state
from ditask_jax.preflight.preflight_checks import Setting, check_weights, without_downloads
from ditask_jax.reports.model_card import weights_lines
from ditask_jax.training.experiment import load_backbone, weights_path
from ditask_jax.training.optim.group_rates import settled
from ditask_jax.training.resolving import agreed, recorded
from ditask_jax.training.run_folder import RunDir
from ditask_jax.weight_files import encode_tensors, read_weights
from tests.adapters.cases import task_list
from tests.conversion.cases import foreign, write
from tests.hub.server import etag, write_cache

COMMIT, NEXT = "a" * 40, "b" * 40
ADDRESS = "hf://timm/swin_test.x"
SWIN = encode_tensors(foreign(swin_names.SWIN_TIMM), {"format": "pt"})


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("DITASK_CACHE_DIR", str(tmp_path / "ours"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "swin.safetensors", foreign(swin_names.SWIN_TIMM))


def model():
    return create_model("swin_test", task_list("sal"), 64, widths=(4, 4, 4, 4))


def test_a_foreign_file_is_converted_once_under_its_content(file, tmp_path, monkeypatch):
    said = []
    first = obtain_weights(file, "swin_test", said.append)
    assert said[0].startswith(f"weights: {file}: ")
    assert "weights of swin_test" in said[0]
    expected = convert_weights(file)
    assert first.arrays.keys() == expected.arrays.keys()
    assert all(first.arrays[name].tobytes() == array.tobytes() for name, array in expected.arrays.items())
    # Another name is the same content; and nothing is converted twice.
    monkeypatch.setattr("ditask_jax.conversion.obtaining.convert_weights", None)
    moved = file.rename(tmp_path / "other.safetensors")
    count = len(said)
    again = obtain_weights(moved, "swin_test", said.append)
    assert (len(said), again.metadata, again.sha256) == (count, first.metadata, sha256_of(moved))
    (kept,) = (tmp_path / "ours" / "weights").iterdir()
    assert kept.name == f"{again.sha256}.swin_test.v1.safetensors"
    # Ours is read as it is.
    assert not is_foreign(kept)
    assert obtain_weights(kept, "swin_test", said.append).sha256 is None


def test_a_damaged_copy_is_made_again(file, tmp_path, caplog):
    first = obtain_weights(file, "swin_test", lambda _: None)
    (kept,) = (tmp_path / "ours" / "weights").iterdir()
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    assert obtain_weights(file, "swin_test", lambda _: None).metadata == first.metadata
    assert "converting once more" in caplog.text
    assert read_weights(kept)[1]["checksum"] == first.metadata["checksum"]


def test_without_a_cache_it_is_converted_every_time(file, tmp_path, monkeypatch, caplog):
    (tmp_path / "ours").write_text("a file")
    found = obtain_weights(file, "swin_test", lambda _: None)
    assert found.metadata["architecture"] == "swin_test"
    assert "converting anew every time" in caplog.text


def test_a_full_disk_leaves_nothing_half(file, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ditask_jax.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        obtain_weights(file, "swin_test", lambda _: None)
    assert not list((tmp_path / "ours" / "weights").rglob("*"))


def test_files_of_pytorch_are_foreign(tmp_path):
    """Old ones and new ones, whatever their names; without PyTorch a line says what is needed."""
    for name, content in (
        ("a.bin", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."),
        ("b.safetensors", b"PK\x03\x04cut off"),
    ):
        (tmp_path / name).write_bytes(content)
        assert is_foreign(tmp_path / name)
        with pytest.raises(WeightsError, match=f"^weights: '{tmp_path / name}'") as caught:
            obtain_weights(tmp_path / name, "swin_test", lambda _: None)
        assert "\n" not in str(caught.value)


def test_what_cannot_be_converted_is_told_of_the_file_that_was_given(tmp_path):
    path = write(tmp_path / "x.safetensors", {"head.weight": np.ones((2, 2), np.float32)})
    with pytest.raises(WeightsError, match=f"^weights: '{path}'"):
        obtain_weights(path, "swin_test", lambda _: None)
    assert not list((tmp_path / "ours").rglob("*.safetensors"))
    for name, content in (("a.safetensors", b"<html>"), ("b.txt", b"nothing")):
        (tmp_path / name).write_bytes(content)
        assert not is_foreign(tmp_path / name)
        with pytest.raises(WeightsError, match=f"^weights: '{tmp_path / name}'"):
            obtain_weights(tmp_path / name)


def test_a_model_takes_a_foreign_file_and_one_of_a_hub_as_ours(file, tmp_path):
    write_cache(tmp_path / "hub", "timm/swin_test.x", COMMIT, {"model.safetensors": SWIN})
    convert_weights(file).write(tmp_path / "w.safetensors")
    values = []
    for place in (tmp_path / "w.safetensors", file, ADDRESS, f"{ADDRESS}@{COMMIT}/model.safetensors"):
        filled = model()
        load_backbone(filled, place)
        values.append(flatten(split_state(filled).trainable))
    for other in values[1:]:
        assert all(np.array_equal(values[0][name], other[name]) for name in values[0])
    assert filled.pretrained.path == filled.pretrained.name == f"{ADDRESS}@{COMMIT}/model.safetensors"
    assert filled.pretrained.sha256 == etag(SWIN)
    load_backbone(model(), file, sha256=sha256_of(file))
    for place in (file, ADDRESS):
        with pytest.raises(
            WeightsError, match=r"got a file with SHA-256 \w{64}, expected 0{64} \(backbone.weights_sha"
        ):
            load_backbone(model(), place, sha256="0" * 64)
    other = create_model("vit_test", task_list("sal"), 64, widths=(4, 4, 4, 4))
    with pytest.raises(WeightsError, match=r"is of 'swin_test' with .* attention heads, the model has 2"):
        load_backbone(other, file)


def _config(**fields):
    config = load_config("configs/smoke.py", {"backbone.name": "swin_test", "backbone.weights": ADDRESS})
    with config.unlocked(), config.ignore_type():
        config.backbone.update(fields)
    return config


def test_a_run_goes_on_with_what_it_has_recorded(tmp_path):
    pinned = f"{ADDRESS}@{COMMIT}/model.safetensors"
    first = recorded(_config(), Pretrained(pinned, "c", "1" * 64))
    assert (first.backbone.weights, first.backbone.weights_resolved) == (ADDRESS, pinned)
    run = RunDir(tmp_path / "run")
    run.claim(first)
    written = json.loads(run.config.read_text())["backbone"]
    assert (written["weights_resolved"], written["weights_sha256"]) == (pinned, "1" * 64)
    # Started again by the same command, which knows of no commit.
    again = run.recorded(_config())
    assert weights_path(again) == weights_path(run.load_config()) == HubAddress.parse(pinned)
    run.check(_config())
    run.claim(_config())
    assert run.load_config().to_dict() == settled(first).to_dict()
    # A script that did not ask the folder first, after the branch has moved: the same bytes will do, others will not.
    moved = f"{ADDRESS}@{NEXT}/model.safetensors"
    run.check(recorded(_config(), Pretrained(moved, "c", "1" * 64)))
    with pytest.raises(CheckpointError, match=r"backbone.weights_sha256: '1111"):
        run.check(recorded(_config(), Pretrained(moved, "c", "2" * 64)))
    # Other weights are other weights.
    other = _config(weights="hf://timm/other")
    assert weights_path(run.recorded(other)) == HubAddress("timm/other")
    local = load_config("configs/smoke.py")
    assert recorded(local, Pretrained("w.safetensors", "c")) is local


def test_runs_of_before_have_no_record(tmp_path):
    config = _config()
    with config.unlocked():
        del config.backbone["weights_resolved"], config.backbone["weights_sha256"]
    run = RunDir(tmp_path / "run")
    run.claim(config)
    assert run.load_config().backbone.weights_sha256 is None
    run.check(_config())


def test_the_preflight_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("ditask_jax.hub.transfers._installed", lambda: True)
    setting = Setting(_config())
    assert check_weights(setting).startswith(f"{ADDRESS} is not in the cache, and nothing is downloaded here: training")
    assert without_downloads(setting.config).backbone.weights is None
    monkeypatch.setattr("ditask_jax.hub.transfers._installed", lambda: False)
    with pytest.raises(WeightsError, match="is not installed; pip install huggingface_hub, or"):
        check_weights(setting)
    write_cache(tmp_path / "hub", "timm/swin_test.x", COMMIT, {"model.safetensors": SWIN})
    assert check_weights(setting).endswith(f"every hash as written: {ADDRESS}")
    path = without_downloads(setting.config).backbone.weights
    assert path.endswith(f"snapshots/{COMMIT}/model.safetensors")
    with pytest.raises(WeightsError, match=r"expected 0{64}"):
        check_weights(Setting(_config(weights_sha256="0" * 64)))
    local = base.get_config()
    assert without_downloads(local) is local


def test_describe_says_where_weights_come_from(tmp_path):
    config = load_config("configs/pascal_swin_tiny.py")
    name = "timm/swin_tiny_patch4_window7_224.ms_in22k"
    assert weights_text(config) == f"weights: hf://{name}, MIT, not in the cache: training fetches them"
    write_cache(tmp_path / "hub", name, COMMIT, {"model.safetensors": b"x"})
    assert weights_text(config) == f"weights: hf://{name}, MIT, in the cache"
    assert weights_text(load_config("configs/smoke.py")) == "weights: random"


@pytest.mark.parametrize(
    "name",
    [
        "pascal_swin_tiny",
        "pascal_pvt_v2_b2",
        "pascal_vit_base",
        "nyud_swin_tiny",
        "vtab_swin_tiny",
        "cityscapes_swin_tiny",
    ],
)
def test_published_configurations_name_released_weights_of_their_backbone(name):
    """By an address whose licence the registry knows; their first lines say size and licence."""
    config = load_config(f"configs/{name}.py")
    address, entry = weights_path(config), backbone_entry(config.backbone.name)
    assert address.repo.startswith("timm/")
    assert address.name in entry.weight_files
    text = (pathlib.Path(base.__file__).with_name(f"{name}.py")).read_text(encoding="utf-8").split('"""')[1]
    assert re.search(rf"^Weights: {address}, \d+ MB, {entry.licence}[ ,]", text, re.MULTILINE)


def test_all_processes_take_what_the_first_one_found(monkeypatch):
    pinned = HubAddress.parse(f"{ADDRESS}@{COMMIT}/model.safetensors")
    where, told, sent = "ditask_jax.training.resolving", [str(pinned)], []
    monkeypatch.setattr(f"{where}.jax.process_count", lambda: 2)
    monkeypatch.setattr(f"{where}.tell_all", lambda text: sent.append(text) or (text or told[0]))
    monkeypatch.setattr(f"{where}.is_first", lambda: False)
    monkeypatch.setattr(f"{where}.resolve", None)  # the others ask nobody
    assert agreed(HubAddress.parse(ADDRESS)) == pinned
    assert agreed(pinned) is pinned
    told[0] = "weights: hf://timm/swin_test.x: no such repository"
    with pytest.raises(WeightsError, match=r"^weights: hf://timm/swin_test.x: no such repository$"):
        agreed(HubAddress.parse(ADDRESS))
    assert sent == ["", ""], "a commit needs no agreement"
    monkeypatch.setattr(f"{where}.is_first", lambda: True)
    monkeypatch.setattr(f"{where}.resolve", lambda address: pinned)
    assert agreed(HubAddress.parse(ADDRESS)) == pinned

    def fails(address):
        raise WeightsError("weights: gone")

    monkeypatch.setattr(f"{where}.resolve", fails)
    with pytest.raises(WeightsError, match="gone"):
        agreed(HubAddress.parse(ADDRESS))
    assert sent[2:] == [str(pinned), "weights: gone"], "the others do not wait for ever"


def test_cards_name_the_commit_the_hash_and_the_licence(file):
    swin = "swin_tiny_patch4_window7"
    address = f"hf://timm/{swin}_224.ms_in22k"
    lines = weights_lines(swin, address, f"{address}@{COMMIT}/model.safetensors", "1" * 64)
    assert lines[0] == f"- from `{address}@{COMMIT}/model.safetensors` (SHA-256 `{'1' * 64}`)"
    assert lines[1] == f"- page: https://huggingface.co/timm/{swin}_224.ms_in22k"
    assert lines[2].endswith(f"`{swin}_224.ms_in22k`, trained on ImageNet-22k")
    assert lines[3].startswith("- licence of the released weights: MIT")
    assert weights_lines(swin, "hf://me/mine")[-1].startswith("- licence: not known")
    assert weights_lines("swin_test", str(file))[0] == (
        f"- file: `swin.safetensors` (SHA-256 `{sha256_of(file)}`), converted when it was read"
    )
