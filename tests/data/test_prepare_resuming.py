"""A preparation that is killed, or stopped by its user, goes on where it was and ends with the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from ditask_jax.data.prepared import prepared_source
from ditask_jax.data.prepared.prepared_source import PreparedSource, verify
from ditask_jax.data.prepared.preparing import Wish, prepare
from ditask_jax.data.sources import open_multitask
from ditask_jax.errors import ConfigError, DataError
from tests.data import miniature
from tests.data.test_prepare import build, contents


@pytest.fixture
def pascal(tmp_path):
    root = tmp_path / "tree"
    written = miniature.write_pascal(root, train=5, val=2)
    return root, tmp_path / "out", written


KILL = """
import os, signal, sys
from pathlib import Path
from ditask_jax.data.prepared import preparing as module
root, out, moment = sys.argv[1:]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_journal = module.Staging._write_journal
def on_example(split, name, total):
    if moment == "within" and name == module.open_tree("pascal", root).ids("train")[3]: die()
def journal(self):
    if moment == "between" and any("00001-of-00003" in name for name in self._shards): die()
    write_journal(self)
module.Staging._write_journal = journal
write_json = module.atomic_write_json
if moment == "manifest":
    module.atomic_write_json = lambda path, *rest: die() if path.name != "progress.json" else write_json(path, *rest)
if moment == "rename": module._put_in_place = die
module.prepare(module.Wish("pascal", ("semseg",), examples_per_shard=2), Path(root), Path(out), on_example=on_example)
"""


def kill(root, out, moment):
    command = [sys.executable, "-c", KILL, str(root), str(out), moment]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "pascal_mt").exists()
    with pytest.raises(DataError, match=r"the preparation in .* has not finished; run the same"):
        open_multitask("pascal", out, "train", ("semseg",))
    return done.stdout.splitlines()


def stamps(out):
    folder = prepared_source.working_folder(out, "pascal") / "set"
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*-of-*")}


def test_a_killed_preparation_goes_on_and_ends_with_the_same_bytes(pascal):
    root, out, _ = pascal
    whole, _, _ = build("pascal", root, out.with_name("whole"), tasks=("semseg",), examples_per_shard=2)
    finished = {}
    for moment, kept in (("within", 0), ("between", 1), ("manifest", 1), ("rename", 4)):
        said = kill(root, out, moment)
        assert [line for line in said if "resuming" in line] == [
            f"resuming with {kept} shards that an interrupted preparation finished"
        ] * bool(kept), moment
        journal = json.loads((prepared_source.working_folder(out, "pascal") / "progress.json").read_text())
        assert len(journal["shards"]) == {"within": 1, "between": 1}.get(moment, 4)
        now = stamps(out)
        assert finished.items() <= now.items(), "a finished shard was written again"
        finished = {name: now[name] for name in journal["shards"]}
    folder, _, said = build("pascal", root, out, tasks=("semseg",), examples_per_shard=2)
    assert said[-1] == "resuming with 4 shards that an interrupted preparation finished"
    assert [path.name for path in out.iterdir()] == ["pascal_mt"]
    assert contents(folder) == contents(whole)
    for name in contents(whole):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_preparation_stopped_by_its_user_goes_on(pascal):
    root, out, _ = pascal

    def stop(split, name, total):
        if split == "val":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(Wish("pascal", ("semseg",), examples_per_shard=2), root, out, on_example=stop)
    folder, _, said = build("pascal", root, out, tasks=("semseg",), examples_per_shard=2)
    assert said[-1] == "resuming with 3 shards that an interrupted preparation finished"
    assert len(PreparedSource(folder, "val", ())) == 2


def test_what_a_killed_preparation_left_is_checked(pascal):
    root, out, written = pascal
    choices = {"tasks": ("semseg",), "examples_per_shard": 2}
    whole, _, _ = build("pascal", root, out.with_name("whole"), **choices)
    kill(root, out, "rename")
    left = prepared_source.working_folder(out, "pascal")

    def leave():
        shutil.rmtree(out)
        shutil.copytree(out.with_name("copy") / left.name, left)

    shutil.copytree(left, out.with_name("copy") / left.name)
    shards = sorted(path.name for path in (left / "set").glob("*-of-*"))
    content = bytearray((left / "set" / shards[1]).read_bytes())
    content[len(content) // 3] ^= 1
    (left / "set" / shards[1]).write_bytes(content)
    (left / "set" / shards[3]).unlink()
    (left / "set" / ".half").write_bytes(b"x")
    folder, _, said = build("pascal", root, out, **choices)
    assert [line for line in said if "anew" in line] == [
        f"preparing shard {shards[1]} anew: it is damaged",
        f"preparing shard {shards[3]} anew: it is damaged",
    ]
    assert all((folder / name).read_bytes() == (whole / name).read_bytes() for name in contents(whole))
    assert contents(folder) == contents(whole)

    leave()
    name = list(written["train"])[2]
    miniature.write_palette_png(root / f"semseg/VOC12/{name}.png", np.full((48, 64), 7, np.uint8))
    os.utime(root / f"semseg/VOC12/{name}.png", ns=(1, 1))
    (root / f"semseg/pascal-context/{name}.png").unlink(missing_ok=True)
    folder, _, said = build("pascal", root, out, **choices)
    changed = f"preparing shard {shards[1]} anew: the files it was made from have changed"
    assert [line for line in said if "anew" in line] == [changed]
    assert (PreparedSource(folder, "train", ("semseg",))[2]["semseg"] == 7).all()

    for wish, reason in (
        ({**choices, "tasks": ("semseg", "sal")}, "it was made with other tasks"),
        ({**choices, "skip_bad": True}, "it was made with other skip bad"),
        ({**choices, "examples_per_shard": 3}, "it was made with other examples per shard"),
    ):
        leave()
        folder, _, said = build("pascal", root, out, **wish)
        assert said[1] == f"removing what an interrupted preparation left in {left}: {reason}"
        assert verify(folder)["tasks"] == list(wish["tasks"])
    leave()
    (left / "progress.json").write_text("{")
    assert build("pascal", root, out, **choices)[2][1].endswith("it does not say what it has finished")
    (root / "ImageSets/Context/val.txt").write_text("\n".join(written["val"]) + "\n" + name)
    leave()
    folder, _, said = build("pascal", root, out, **choices)
    assert said[1].endswith("it was made with other examples")
    assert len(PreparedSource(folder, "val", ())) == 3


def test_another_unit_of_the_files_is_another_set(tmp_path):
    miniature.write_nyud(tmp_path / "tree", train=2, val=1)
    wish = Wish("nyud", ("depth",), depth_unit="millimetres", examples_per_shard=1)

    def stop(split, name, total):
        if split == "val":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(wish, tmp_path / "tree", tmp_path / "out", on_example=stop)
    folder, _, said = build("nyud", tmp_path / "tree", tmp_path / "out", tasks=("depth",), examples_per_shard=1)
    assert said[-1].endswith("it was made with other file unit")
    assert PreparedSource(folder, "train", ("depth",))[0]["depth"].max() > 1
    with pytest.raises(ConfigError, match="was prepared with file_unit metres, now millimetres"):
        build("nyud", tmp_path / "tree", tmp_path / "out", tasks=("depth",), depth_unit="millimetres")
