"""Getting from and pushing to a hub by `huggingface_hub`, against a small hub of our own; skipped without it."""

import errno
import json
import logging
import os
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from ditask_jax import cli, convert, export, train
from ditask_jax.adapters import DiTASK, wrap
from ditask_jax.adapters.storage import ARRAYS, DESCRIPTION, load_adapter, read_description, save_adapter
from ditask_jax.conversion import swin_names
from ditask_jax.conversion.obtaining import obtain_weights
from ditask_jax.errors import WeightsError
from ditask_jax.hub.addresses import HubAddress, cached
from ditask_jax.hub.transfers import fetch, fetch_folder, resolve
from ditask_jax.training.experiment import load_backbone
from ditask_jax.training.run_folder import RunDir
from ditask_jax.weight_files import encode_tensors, read_weights
from tests.adapters.cases import Wrapped
from tests.conversion.cases import foreign
from tests.hub.server import SIGNATURE, etag, serving

huggingface_hub = pytest.importorskip(
    "huggingface_hub", reason="huggingface_hub is not installed: pip install huggingface_hub"
)

WEIGHTS = bytes(range(256)) * 2000
TOKEN = "hf_" + "Zz9" * 12
SWIN = encode_tensors(foreign(swin_names.SWIN_TIMM), {"format": "pt"})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # Read when the library was imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("DITASK_CACHE_DIR", str(tmp_path / "ours"))
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def files_of(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_got_once_and_kept_for_work_without_a_network(hub, monkeypatch):
    repository = hub.repository("a/b", {"README.md": b"x", "model.safetensors": WEIGHTS}, licence="apache-2.0")
    commit, said = repository.branches["main"], []
    found = fetch(HubAddress("a/b"), said.append)
    assert str(found.address) == f"hf://a/b@{commit}/model.safetensors"
    assert (found.path.read_bytes(), found.sha256) == (WEIGHTS, etag(WEIGHTS))
    assert said == [f"weights: downloading {found.address}, 0.5 MB, licence apache-2.0"]
    assert fetch(HubAddress("a/b"), said.append) == found
    assert (len(said), len(hub.downloads())) == (1, 1)
    # A commit asks nobody, and a branch does without a hub that is gone.
    before = len(hub.requests)
    assert fetch(found.address, said.append) == found
    assert len(hub.requests) == before
    hub.status = 503
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    assert fetch(HubAddress("a/b"), said.append) == found
    assert said[1:] == [
        f"weights: hf://a/b: the hub answers with status 503; taking commit {commit[:12]} from the cache"
    ]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch(HubAddress("a/b"), said.append) == found
    assert "the hub was not reached (" in said[2]


def test_a_branch_moves_and_a_commit_stays(hub):
    repository = hub.repository("a/b", {"model.safetensors": WEIGHTS})
    first = fetch(HubAddress("a/b"), lambda _: None)
    repository.commit({"model.safetensors": WEIGHTS[::-1]})
    assert resolve(HubAddress("a/b")).revision == repository.branches["main"] != first.address.revision
    assert fetch(HubAddress("a/b"), lambda _: None).path.read_bytes() == WEIGHTS[::-1]
    assert fetch(first.address).path.read_bytes() == WEIGHTS
    assert resolve(first.address) == first.address
    repository.commit({"model.safetensors": b"short"}, "refs/pr/1")
    assert fetch(HubAddress.parse("hf://a/b@refs%2Fpr%2F1"), lambda _: None).path.read_bytes() == b"short"


def test_an_index_brings_its_files(hub, monkeypatch):
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = json.dumps({"weight_map": dict(zip("ab", names, strict=True))}).encode()
    files = {"sub/model.safetensors.index.json": index, f"sub/{names[0]}": WEIGHTS, f"sub/{names[1]}": WEIGHTS[::-1]}
    hub.repository("a/b", {**files, "other.bin": b"x"})
    address = HubAddress("a/b", None, "sub/model.safetensors.index.json")
    found = fetch(address, lambda _: None)
    assert {name: (found.path.parent.parent / name).read_bytes() for name in files} == files
    assert len(hub.downloads()) == 3
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(address, lambda _: None) == cached(address) == found


def test_an_index_that_names_a_file_that_is_not_there_is_one_line(hub):
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = json.dumps({"weight_map": dict(zip("ab", names, strict=True))}).encode()
    hub.repository("a/b", {"model.safetensors.index.json": index, names[0]: WEIGHTS})
    with pytest.raises(WeightsError, match=rf"^weights: hf://a/b@\w{{40}}: no file '{names[1]}'\. Did you mean"):
        fetch(HubAddress("a/b"), lambda _: None)


def test_a_download_that_breaks_goes_on_where_it_was(hub, monkeypatch):
    hub.repository("a/b", {"model.safetensors": WEIGHTS})
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.breaks = [1000, 200_000]
    found = fetch(HubAddress("a/b"), lambda _: None)
    assert found.path.read_bytes() == WEIGHTS
    assert len(hub.downloads()) == 3


def test_a_download_that_never_ends_is_one_line_and_leaves_nothing_half(hub, monkeypatch, tmp_path):
    hub.repository("a/b", {"model.safetensors": WEIGHTS})
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.breaks = [0] * 200
    with pytest.raises(WeightsError, match=r"run the same command again, or without a network bring model.safetensors"):
        fetch(HubAddress("a/b"), lambda _: None)
    assert cached(HubAddress("a/b")) is None
    assert not [path for path in files_of(tmp_path / "hub") if "blobs" in path.parts and "incomplete" not in path.name]
    hub.breaks = []
    assert fetch(HubAddress("a/b"), lambda _: None).path.read_bytes() == WEIGHTS


@pytest.mark.parametrize("content", [WEIGHTS, b"small"])
def test_a_wrong_hash_is_fetched_once_more_and_then_refused(hub, content, tmp_path):
    hub.repository("a/b", {"model.safetensors": content})
    hub.wrong = 1
    assert fetch(HubAddress("a/b"), lambda _: None).path.read_bytes() == content
    hub.repository("c/d", {"model.safetensors": content})
    hub.wrong = 2
    with pytest.raises(WeightsError, match=r"came twice with hash \w{12}, where the hub states \w{12}: nothing of it"):
        fetch(HubAddress("c/d"), lambda _: None)
    assert cached(HubAddress("c/d")) is None
    assert not [path for path in files_of(tmp_path / "hub" / "models--c--d") if "blobs" in path.parts]


def test_a_copy_that_was_damaged_is_fetched_again(hub):
    hub.repository("a/b", {"model.safetensors": WEIGHTS})
    found = fetch(HubAddress("a/b"), lambda _: None)
    for address in (HubAddress("a/b"), found.address):
        found.path.resolve().write_bytes(WEIGHTS[:-1])
        assert fetch(address, lambda _: None) == found
        assert found.path.read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("address", "line"),
    [
        (
            "hf://no/such",
            r"^weights: hf://no/such: no such repository, or a private one: check the name, or set HF_TOKEN",
        ),
        ("hf://private/x", r"^weights: hf://private/x: no such repository, or a private one: .* may read it$"),
        (
            "hf://gated/x",
            r"^weights: hf://gated/x: access is gated: accept the terms on http://.*/gated/x and set HF_TOKEN",
        ),
        ("hf://a/b@v2", r"^weights: hf://a/b@v2: no revision 'v2'; http://.*/a/b lists branches"),
        ("hf://a/b/modle.safetensors", r"no file 'modle.safetensors'. Did you mean 'model.safetensors'\?"),
        (
            "hf://pickle/x",
            r"holds no .safetensors files; name the file, hf://pickle/x/FILE \(it has pytorch_model.bin\)",
        ),
        ("hf://two/x", r"holds several .safetensors files; name the file"),
    ],
)
def test_what_is_wrong_is_one_line(hub, address, line):
    hub.repository("a/b", {"model.safetensors": WEIGHTS})
    hub.repository("private/x", {"model.safetensors": WEIGHTS}, token=TOKEN)
    hub.repository("gated/x", {"model.safetensors": WEIGHTS}, token=TOKEN, gated=True)
    hub.repository("pickle/x", {"pytorch_model.bin": WEIGHTS})
    hub.repository("two/x", {"a.safetensors": WEIGHTS, "b.safetensors": WEIGHTS})
    with pytest.raises(WeightsError, match=line) as caught:
        fetch(HubAddress.parse(address))
    assert "\n" not in str(caught.value)


def test_a_token_goes_to_the_hub_alone_and_stands_nowhere(hub, tmp_path, monkeypatch, capfd, caplog):
    hub.repository("private/x", {"model.safetensors": SWIN}, token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    caplog.set_level(logging.DEBUG)
    hub.breaks = [100]
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    assert cli.execute(convert.main, ["hf://private/x", str(tmp_path / "w.safetensors")]) == cli.OK
    sent = {(path.split("/")[1] == "store", authorization) for _, path, authorization in hub.requests}
    assert sent == {(True, ""), (False, f"Bearer {TOKEN}")}
    hub.repositories["private/x"].token = "another"
    assert cli.execute(convert.main, ["hf://private/x@main", str(tmp_path / "v.safetensors")]) == cli.USER_ERROR
    output = capfd.readouterr()
    written = b"".join(path.read_bytes() for path in files_of(tmp_path))
    for secret in (TOKEN, SIGNATURE):
        assert secret not in output.out + output.err
        assert secret.encode() not in written
    assert not [r for r in caplog.records if TOKEN in r.getMessage() or SIGNATURE in r.getMessage()]


def test_a_full_disk_is_one_line(hub, monkeypatch, capsys, tmp_path):
    hub.repository("a/b", {"model.safetensors": WEIGHTS})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    assert cli.execute(convert.main, ["hf://a/b", str(tmp_path / "w.safetensors")]) == cli.USER_ERROR
    line = capsys.readouterr().err.splitlines()[-1]
    assert (
        line
        == f"file system: {tmp_path / 'hub'}: No space left on device; free some space and run the same command again"
    )


def test_one_of_several_downloads_and_the_others_wait(hub):
    hub.repository("a/b", {"model.safetensors": WEIGHTS})
    code = (
        "from ditask_jax.hub.addresses import HubAddress\nfrom ditask_jax.hub.transfers import fetch\n"
        "print(fetch(HubAddress('a/b')).sha256)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(3)
    ]
    threads, found = [], []
    for _ in range(2):
        threads.append(threading.Thread(target=lambda: found.append(fetch(HubAddress("a/b"), lambda _: None).sha256)))
        threads[-1].start()
    found += [process.communicate(timeout=120)[0].strip() for process in started]
    for thread in threads:
        thread.join(60)
    assert found == [etag(WEIGHTS)] * 5
    assert len(hub.downloads()) == 1


def test_foreign_weights_of_a_hub_are_converted_once(hub, tmp_path):
    commit = hub.repository("timm/swin_test.x", {"model.safetensors": SWIN}).branches["main"]
    said, address = [], HubAddress("timm/swin_test.x")
    found = obtain_weights(address, "swin_test", said.append)
    assert [line.partition(" ")[0] for line in said] == ["weights:"] * len(said)
    assert "swin_test" in said[1]
    assert found.metadata["source"] == f"hf://timm/swin_test.x@{commit}/model.safetensors"
    assert (str(found.source), found.sha256) == (found.metadata["source"], etag(SWIN))
    count = len(said)
    assert obtain_weights(address, "swin_test", said.append).metadata == found.metadata
    assert len(said) == count
    (kept,) = (tmp_path / "ours" / "weights").glob("*.safetensors")
    assert kept.name.startswith(etag(SWIN))
    # By hand it is the same.
    out = tmp_path / "w.safetensors"
    assert cli.execute(convert.main, ["hf://timm/swin_test.x", str(out)]) == cli.OK
    assert read_weights(out)[1]["checksum"] == found.metadata["checksum"]


def test_an_adapter_goes_to_a_hub_and_comes_back(hub, tmp_path, monkeypatch, capsys):
    hub.repository("timm/swin_test.x", {"model.safetensors": SWIN})
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    case = Wrapped(DiTASK(shared_cells=4, task_cells=4))
    model = case.model
    state = (case.random_trainable(), None, case.parts.stats)
    with monkeypatch.context() as patch:
        # Older versions take apart what the hub answers by the address that they knew when they were imported.
        patch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        folder = save_adapter(tmp_path / "adapter", model, state, push="hf://me/mine")
    repository = hub.repositories["me/mine"]
    assert repository.licence == "private"
    assert {ARRAYS, DESCRIPTION} <= repository.commits[repository.branches["main"]].keys()
    assert f"adapter: pushed to hf://me/mine@{repository.branches['main']}, made private" in capsys.readouterr().err
    assert read_description("hf://me/mine") == read_description(folder)
    fresh = Wrapped(DiTASK(shared_cells=4, task_cells=4))
    state = load_adapter("hf://me/mine", fresh.model)
    expected = load_adapter(folder, Wrapped(DiTASK(shared_cells=4, task_cells=4)).model)
    jax.tree.map(np.testing.assert_array_equal, state.trainable, expected.trainable)
    # Into a folder of a branch, beside what is there.
    (folder / "README.md").write_text("what it is")
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        save_adapter(folder, model, push="hf://me/mine@trial/second")
    assert repository.commits[repository.branches["trial"]]["second/README.md"] == b"what it is"
    assert f"second/{ARRAYS}" in repository.commits[repository.branches["trial"]]
    assert f"second/{ARRAYS}" not in repository.commits[repository.branches["main"]]
    assert read_description("hf://me/mine@trial/second") == read_description(folder)
    with pytest.raises(WeightsError, match=r"^adapter: hf://me/mine: no file 'third/adapter.\w+'. Did you"):
        load_adapter("hf://me/mine/third", fresh.model)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(WeightsError, match=r"^adapter: push: hf://me/other: .* HF_TOKEN to a token that may write it"):
        save_adapter(folder, model, push="hf://me/other")


def test_files_of_a_folder_are_of_one_commit_where_the_branch_moves_meanwhile(hub, monkeypatch):
    repository = hub.repository("a/b", {"x/one": b"1", "x/two": b"2"})
    first, download = repository.branches["main"], huggingface_hub.hf_hub_download

    def then_moved(*args, **kwargs):
        path = download(*args, **kwargs)
        repository.commit({"x/one": b"3", "x/two": b"4"})
        return path

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", then_moved)
    found = fetch_folder(HubAddress.parse("hf://a/b/x"), ["one", "two"], "adapter")
    assert [path.read_bytes() for path in found.values()] == [b"1", b"2"]
    assert {path.parents[1].name for path in found.values()} == {first}


def test_an_adapter_says_on_which_weights_of_a_hub_it_was_made(hub, tmp_path):
    from ditask_jax.model import create_model
    from ditask_jax.training.restore import build_adapted
    from tests.adapters.cases import task_list

    commit = hub.repository("timm/swin_test.x", {"model.safetensors": SWIN}).branches["main"]
    model = create_model("swin_test", task_list("sal"), 64, widths=(4, 4, 4, 4))
    load_backbone(model, "hf://timm/swin_test.x")
    wrap(model, DiTASK(shared_cells=4, task_cells=4))
    save_adapter(tmp_path / "adapter", model)
    backbone = read_description(tmp_path / "adapter")["backbone"]
    assert backbone["file"] == f"hf://timm/swin_test.x@{commit}/model.safetensors"
    assert backbone["file_sha256"] == etag(SWIN)
    hub.repositories["timm/swin_test.x"].commit({"model.safetensors": b"moved"})
    built, tasks = build_adapted(tmp_path / "adapter")
    assert built.pretrained == model.pretrained
    assert [task.name for task in tasks] == ["sal"]


@pytest.mark.slow
def test_a_training_goes_on_with_the_commit_it_began_with(hub, tmp_path, monkeypatch, capsys):
    """By the same command, after the branch has moved; and so do evaluation and export, without a network."""
    repository = hub.repository("timm/swin_test.x", {"model.safetensors": SWIN})
    commit, run = repository.branches["main"], tmp_path / "run"
    arguments = ["--config=configs/smoke.py", f"--workdir={run}", "--config.backbone.name=swin_test"]
    arguments += ["--config.backbone.weights=hf://timm/swin_test.x", "--config.eval_every_steps=none"]
    with monkeypatch.context() as patch:
        patch.setattr("ditask_jax.training.trainer.Trainer.fit", _claim_only)
        assert cli.execute(train.main, arguments) == cli.PREEMPTED
    text = (run / "config.json").read_text()
    assert f'"hf://timm/swin_test.x@{commit}/model.safetensors"' in text
    repository.commit({"model.safetensors": encode_tensors(foreign(swin_names.SWIN_TIMM, seed=1), {"format": "pt"})})
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert cli.execute(train.main, arguments) == cli.OK, capsys.readouterr().err
    assert (run / "config.json").read_text() == text
    card = (run / "MODEL_CARD.md").read_text()
    assert f"`hf://timm/swin_test.x@{commit}/model.safetensors` (SHA-256 `{etag(SWIN)}`)" in card
    out = tmp_path / "out.safetensors"
    assert cli.execute(export.main, [f"--workdir={run}", "--layout=ditask", f"--out={out}"]) == cli.OK


def _claim_only(self, workdir, profile=None):
    """Stands in for a training that is killed before its first step."""
    RunDir(workdir).claim(self.config)
    self.stopped = True
