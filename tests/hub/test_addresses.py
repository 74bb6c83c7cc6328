"""Addresses on a hub, and what the cache has of them: nothing here asks a network, nor needs `huggingface_hub`."""

import pathlib

import pytest

from ditask_jax.config import load_config
from ditask_jax.errors import ConfigError, WeightsError
from ditask_jax.hub.addresses import HubAddress, cached, is_hub, local_or_hub, sha256_of
from ditask_jax.hub.transfers import fetch, fetch_folder, push_files, resolve
from tests.hub.server import write_cache

COMMIT, NEXT = "a" * 40, "b" * 40
TOKEN = "hf_" + "Aa1" * 12


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("text", "repo", "revision", "file"),
    [
        ("hf://timm/pvt_v2_b2.in1k", "timm/pvt_v2_b2.in1k", None, ""),
        ("hf://a/b@v1.0/x/y.safetensors", "a/b", "v1.0", "x/y.safetensors"),
        ("hf://a/b@refs%2Fpr%2F1", "a/b", "refs/pr/1", ""),
        (f"hf://a/b@{COMMIT}/f.pth", "a/b", COMMIT, "f.pth"),
        ("hf://a/b/", "a/b", None, ""),
        (pathlib.Path("hf://a/b/c.pth"), "a/b", None, "c.pth"),
    ],
)
def test_addresses_are_taken_apart_and_put_together(text, repo, revision, file):
    address = local_or_hub(text)
    assert (address.repo, address.revision, address.file) == (repo, revision, file)
    assert HubAddress.parse(str(address)) == address
    assert address.is_pinned == (revision == COMMIT)


@pytest.mark.parametrize(
    "text",
    [
        *("hf://", "hf://a", "hf://a/b@", "hf://a/../c", "hf://a/b/../../c", "hf://a/b//c", "hf://a/b/c@d"),
        *("hf://datasets/a/b", "hf:///a/b", "hf://a b/c", "hf://a/b/c\\d", "hf://-a/b", "hf://a/b/./c"),
    ],
)
def test_what_is_no_address_is_refused(text):
    assert is_hub(text)
    with pytest.raises(
        ConfigError, match=r"^config: backbone.weights: '.*expected hf://OWNER/REPO\[@REVISION\]\[/FILE\]"
    ):
        load_config("configs/smoke.py", {"backbone.weights": text})


@pytest.mark.parametrize("text", [f"hf://{TOKEN}@a/b", f"hf://a/b@{TOKEN}", f"hf://me:{TOKEN}@a/b/c"])
def test_a_token_in_an_address_is_refused_and_not_repeated(text):
    with pytest.raises(ConfigError) as caught:
        load_config("configs/smoke.py", {"backbone.weights": text})
    assert TOKEN not in str(caught.value)


def test_the_cache_is_read_without_the_library(cache):
    files = {"config.json": b"{}", "model.safetensors": b"w" * 300}
    write_cache(cache, "a/b", COMMIT, files)
    for text in ("hf://a/b", "hf://a/b@main", f"hf://a/b@{COMMIT}", f"hf://a/b@{COMMIT}/model.safetensors"):
        said = []
        found = fetch(HubAddress.parse(text), said.append)
        assert str(found.address) == f"hf://a/b@{COMMIT}/model.safetensors"
        assert found.path.read_bytes() == files["model.safetensors"]
        assert found.sha256 == sha256_of(found.path)
        assert resolve(HubAddress.parse(text)) == found.address
        # A commit is taken as it is; of a branch one must know that nobody was asked.
        assert len(said) == (text != str(found.address))
        assert all(f"taking commit {COMMIT[:12]} from the cache" in line for line in said)
    assert cached(HubAddress.parse("hf://a/b/config.json")).path.read_bytes() == b"{}"
    assert cached(HubAddress.parse("hf://a/b/other.safetensors")) is None
    assert cached(HubAddress.parse("hf://a/b@v2")) is None
    assert list(fetch_folder(HubAddress.parse("hf://a/b"), ["config.json"], "adapter")) == ["config.json"]


def test_which_file_is_taken(cache):
    write_cache(
        cache, "one/x", COMMIT, {"swin.safetensors": b"1", "sub/y.safetensors": b"2", "pytorch_model.bin": b"3"}
    )
    assert cached(HubAddress("one/x")).address.file == "swin.safetensors"
    write_cache(cache, "two/x", COMMIT, {"a.safetensors": b"1", "b.safetensors": b"2"})
    assert cached(HubAddress("two/x")) is None
    write_cache(cache, "pickle/x", COMMIT, {"pytorch_model.bin": b"1"})
    assert cached(HubAddress("pickle/x")) is None, "a pickle is read where it is named, and nowhere else"
    assert cached(HubAddress("pickle/x", None, "pytorch_model.bin")).path.read_bytes() == b"1"


def test_shards_are_whole_or_not_there(cache):
    index = b'{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}'
    files = {"model.safetensors.index.json": index, "model-1-of-2.safetensors": b"1"}
    write_cache(cache, "a/b", COMMIT, files)
    assert cached(HubAddress("a/b")) is None
    write_cache(cache, "a/b", COMMIT, {**files, "model-2-of-2.safetensors": b"2"})
    first = cached(HubAddress("a/b")).sha256
    write_cache(cache, "a/b", NEXT, {**files, "model-2-of-2.safetensors": b"3"})
    assert cached(HubAddress("a/b")).sha256 != first


@pytest.mark.parametrize("size", [3, 300])
def test_a_damaged_copy_is_named(cache, size):
    write_cache(cache, "a/b", COMMIT, {"model.safetensors": b"w" * size})
    path = cached(HubAddress("a/b")).path
    path.resolve().write_bytes(b"w" * (size - 1) + b"x")
    with pytest.raises(WeightsError, match=r"model.safetensors', a copy of hf://a/b@a{40}/.* is damaged: .*delete it"):
        fetch(HubAddress("a/b"))


def test_without_a_network_one_line_says_which_file_to_bring(cache, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    with pytest.raises(WeightsError) as caught:
        fetch(HubAddress("timm/x", "v1"))
    line = str(caught.value)
    assert line.startswith(f"weights: hf://timm/x@v1 is not in the cache {cache}, and HF_HUB_OFFLINE keeps")
    assert line.endswith(
        "without a network bring model.safetensors of https://huggingface.co/timm/x at v1 to this machine and give its "
        "path as backbone.weights"
    )
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match="is not installed; pip install huggingface_hub, or without a network bring"):
        fetch(HubAddress("timm/x"))
    with pytest.raises(WeightsError, match=r"^adapter: push: .* push the folder, which is written, once it can be"):
        push_files(cache, ["x"], HubAddress("me/x"), "note")
    with pytest.raises(ConfigError, match="names a commit"):
        push_files(cache, ["x"], HubAddress("me/x", COMMIT), "note")


def test_weights_of_a_configuration_go_with_its_backbone(tmp_path):
    (tmp_path / "c.py").write_text(
        "from ditask_jax.config import base_config\n\n\ndef get_config():\n    config = base_config()\n"
        "    config.total_steps = 1\n    config.backbone.weights = 'hf://timm/x'\n    return config\n"
    )
    said = []
    load = lambda *overrides: load_config(tmp_path / "c.py", overrides, say=said.append).backbone.weights
    assert load() == "hf://timm/x"
    assert load("backbone.name=swin_tiny_patch4_window7") == "hf://timm/x"
    assert load("backbone.name=vit_test", "backbone.weights=hf://timm/y") == "hf://timm/y"
    assert said == []
    assert load("backbone.name=vit_test") is None
    assert said == [
        "config: backbone.name: 'vit_test' in place of 'swin_tiny_patch4_window7' drops backbone.weights=hf://timm/x"
    ]
