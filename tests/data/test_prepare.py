"""Preparing: what is read back equals the tree in every bit; killed, damaged and differing sets are never taken."""

import errno
import json
import pickle
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ditask_jax.data.augment import Augmentation
from ditask_jax.data.benchmarks import TreeSource, open_tree
from ditask_jax.data.pipeline import train_batches
from ditask_jax.data.prepared import prepared_source
from ditask_jax.data.prepared.prepared_source import PreparedSource, find_prepared, verify
from ditask_jax.data.prepared.preparing import Wish, prepare
from ditask_jax.data.sources import open_multitask
from ditask_jax.errors import ConfigError, DataError
from tests.data import miniature
from tests.data.specs import NORMALS, SEMSEG
from tests.data.test_trees import LAYOUTS, check_example, write_layout


def build(name, root, out, **choices):
    said = []
    replace = choices.pop("replace", False)
    folder, manifest = prepare(Wish(name, **choices), root, out, replace, said.append)
    return folder, manifest, said


def contents(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def pascal(tmp_path):
    root = tmp_path / "tree"
    written = miniature.write_pascal(root, train=5, val=2)
    return root, tmp_path / "out", written


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_label_comes_back_and_equals_the_tree(layout, tmp_path):
    root, out = tmp_path / "tree", tmp_path / "out"
    name, choices, tasks, written = write_layout(layout, root)
    folder, manifest, _ = build(name, root, out, tasks=tasks, **choices)
    assert find_prepared(out, name) == find_prepared(folder, name) == find_prepared(folder.parent, name) == folder
    tree = open_tree(name, root, **choices)
    for split, examples in written.items():
        assert manifest["splits"][split]["examples"] == len(examples)
        source = pickle.loads(pickle.dumps(PreparedSource(folder, split, tasks)))
        original = TreeSource(tree, split, tasks)
        assert source.depth_unit == original.depth_unit
        assert len(source) == len(original) == len(examples)
        for k, (example_id, want) in enumerate(examples.items()):
            example, raw = source[k], original[k]
            check_example(example, want, tasks)
            assert example["id"] == raw["id"] == example_id
            for what in ("image", *tasks):
                assert example[what].dtype == raw[what].dtype
                np.testing.assert_array_equal(example[what], raw[what])
    assert "tensorflow" not in sys.modules
    assert contents(out)[0] == f"{name}_mt"
    assert not [path for path in contents(out) if path.startswith(".")]


def test_batches_are_the_same_from_the_tree_and_from_the_prepared_set(pascal):
    root, out, _ = pascal
    build("pascal", root, out)
    tasks = ("semseg", "normals")
    streams = []
    for place, options in ((root, {}), (out, {}), (out, {"workers": 1})):
        source = open_multitask("pascal", place, "train", tasks)
        with train_batches(source, (SEMSEG, NORMALS), 32, 4, 1, Augmentation(), **options) as stream:
            streams.append([next(stream) for _ in range(3)])
    for batches in streams[1:]:
        for a, b in zip(streams[0], batches, strict=True):
            np.testing.assert_array_equal(a["index"], b["index"])
            np.testing.assert_array_equal(a["image"], b["image"])
            np.testing.assert_array_equal(a["labels"]["normals"], b["labels"]["normals"])


def test_order_holds_over_several_shards(pascal):
    root, out, written = pascal
    folder, manifest, _ = build("pascal", root, out, tasks=("semseg",), examples_per_shard=2)
    assert sum("train.array_record" in name for name in manifest["files"]) == 3
    source = PreparedSource(folder, "train", ())
    assert [source[k]["id"] for k in range(len(source))] == list(written["train"])
    assert len(PreparedSource(folder, "train", (), num_examples=2)) == 2
    with pytest.raises(IndexError):
        PreparedSource(folder, "train", (), num_examples=2)[2]


def test_tensorflow_datasets_reads_the_set_too(pascal):
    root, out, written = pascal
    build("pascal", root, out, tasks=("semseg", "sal"))
    from ditask_jax.data.prepared.tfds_builder import PascalMt

    for builder in (
        tfds.builder_from_directory(out / "pascal_mt/1.0.0"),
        PascalMt(data_dir=out, tasks=("semseg", "sal")),
    ):
        source = builder.as_data_source("val")
        for example, want in zip(source, written["val"].values(), strict=True):
            np.testing.assert_array_equal(example["image"], want["image"])
            np.testing.assert_array_equal(example["semseg"], want["semseg"])
            np.testing.assert_array_equal(example["sal"], want["sal"])


def test_the_builder_alone_prepares_the_same_examples(pascal, capfd, tmp_path, monkeypatch):
    root, out, written = pascal
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    from ditask_jax.data.prepared.tfds_builder import PascalMt

    builder = PascalMt(data_dir=out, tasks=("semseg", "normals"), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
    capfd.readouterr()
    assert list(temporary.iterdir()) == []
    folder, _, _ = build("pascal", root, out.with_name("mine"), tasks=("semseg", "normals"))
    theirs, mine = builder.as_data_source("train"), tfds.builder_from_directory(folder).as_data_source("train")
    assert len(theirs) == len(mine) == len(written["train"])
    for a, b in zip(theirs, mine, strict=True):
        assert a["id"] == b["id"]
        for what in ("image", "semseg", "normals"):
            np.testing.assert_array_equal(a[what], b[what])


def test_a_second_start_verifies_and_does_nothing(pascal):
    root, out, _ = pascal
    folder, manifest, _ = build("pascal", root, out)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again, same, said = build("pascal", root, out)
    assert again == folder
    assert same == manifest
    assert said[-1] == "prepared already: every hash and count is right"
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_other_contents_need_replace_or_another_folder(pascal):
    root, out, _ = pascal
    folder, _, _ = build("pascal", root, out, tasks=("semseg",))
    with pytest.raises(ConfigError, match=r"was prepared with tasks semseg, now semseg\+sal; use another --out, or"):
        build("pascal", root, out, tasks=("semseg", "sal"))
    assert verify(folder)["tasks"] == ["semseg"]
    build("pascal", root, out, tasks=("semseg", "sal"), replace=True)
    assert verify(folder)["tasks"] == ["semseg", "sal"]
    assert contents(out / "pascal_mt")[0] == "1.0.0"
    with pytest.raises(DataError, match=r"was prepared with semseg sal, without edge; .* --tasks semseg\+sal\+edge"):
        PreparedSource(folder, "train", ("edge",))


@pytest.mark.parametrize("damage", ["flipped bit", "shorter", "missing", "manifest"])
def test_a_damaged_set_is_noticed_and_prepared_anew(damage, pascal):
    root, out, _ = pascal
    folder, _, _ = build("pascal", root, out, tasks=("semseg",))
    shard = next(folder.glob("*train*"))
    content = bytearray(shard.read_bytes())
    if damage == "flipped bit":
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
        message = r"train.* differs from what was prepared \(its hash is another\)"
    elif damage == "shorter":
        shard.write_bytes(content[:-10])
        message = r"train.* has \d+ bytes, expected \d+"
    elif damage == "missing":
        shard.unlink()
        message = r"train.* of a prepared set is missing"
    else:
        (folder / prepared_source.MANIFEST).write_text("{")
        message = r"prepared\.json is damaged; prepare it again with `python -m ditask_jax\.data build`"
    with pytest.raises(DataError, match=message):
        verify(folder)
    if damage != "flipped bit":  # sizes are compared whenever a set is opened, hashes are not
        with pytest.raises(DataError, match=message):
            open_multitask("pascal", out, "train", ("semseg",))
    _, _, said = build("pascal", root, out, tasks=("semseg",))
    assert "preparing it anew" in said
    verify(folder)
    assert [path.name for path in (out / "pascal_mt").iterdir()] == ["1.0.0"]


def test_a_count_that_does_not_hold_is_noticed(pascal):
    root, out, _ = pascal
    folder, manifest, _ = build("pascal", root, out, tasks=("semseg",))
    manifest["splits"]["val"]["examples"] = 3
    (folder / prepared_source.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="holds 2 examples of val, expected 3"):
        verify(folder)


@pytest.mark.parametrize("is_new", [True, False])
def test_a_bad_file_stops_and_leaves_nothing_behind(is_new, pascal):
    root, out, written = pascal
    if not is_new:
        out.mkdir()
        (out / "mine.txt").write_text("kept")
    name = list(written["train"])[3]
    path = root / f"JPEGImages/{name}.jpg"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"^data: .*{name}\.jpg cannot be decoded: image file is truncated"):
        build("pascal", root, out)
    assert out.exists() is not is_new
    assert is_new or contents(out) == ["mine.txt"]
    path.unlink()
    with pytest.raises(DataError, match=rf"{name}\.jpg is missing \(needed for image\)"):
        build("pascal", root, out)
    assert out.exists() is not is_new


def test_a_label_that_does_not_fit_its_picture_is_found_while_preparing(tmp_path):
    root = tmp_path / "tree"
    written = miniature.write_cityscapes(root)
    name = next(iter(written["val"]))
    miniature.write_grey_png(next(root.glob(f"gtFine/val/*/{name}*")), np.full((48, 90), 7, np.uint8))
    with pytest.raises(DataError, match=rf"{name}_gtFine_labelIds\.png is 48x90"):
        build("cityscapes", root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_examples_can_be_left_out_and_are_listed(pascal):
    root, out, written = pascal
    names = list(written["train"])
    (root / f"semseg/VOC12/{names[1]}.png").write_bytes(b"")
    (root / f"JPEGImages/{names[4]}.jpg").unlink()
    folder, manifest, _ = build("pascal", root, out, tasks=("semseg",), skip_bad=True)
    source = PreparedSource(folder, "train", ("semseg",))
    assert [source[k]["id"] for k in range(len(source))] == [names[0], names[2], names[3]]
    skipped = manifest["splits"]["train"]["skipped"]
    assert list(skipped) == [names[1], names[4]]
    assert "is not an image file" in skipped[names[1]]
    assert verify(folder) == manifest
    # A shard without a single good example stands among the others.
    folder, _, _ = build("pascal", root, out, tasks=("semseg",), skip_bad=True, examples_per_shard=1, replace=True)
    source = PreparedSource(folder, "train", ("semseg",))
    assert [source[k]["id"] for k in range(len(source))] == [names[0], names[2], names[3]]
    manifest = verify(folder)
    for path in (root / "semseg/VOC12").iterdir():
        path.write_bytes(b"")
    for path in (root / "semseg/pascal-context").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"not one of the 5 examples of train can be read; the last: .*jpg is missing"):
        build("pascal", root, out, tasks=("semseg",), skip_bad=True, replace=True)
    assert verify(folder) == manifest


def test_pictures_that_decoders_read_differently_are_stored_plainly(pascal):
    from PIL import Image

    root, out, written = pascal
    name = next(iter(written["train"]))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = root / f"JPEGImages/{name}.jpg"
    stored = miniature.write_jpeg(path, np.asarray(Image.open(path)), exif=exif)
    folder, _, _ = build("pascal", root, out, tasks=("semseg",))
    np.testing.assert_array_equal(PreparedSource(folder, "train", ())[0]["image"], stored)
    first = tfds.builder_from_directory(folder).as_data_source("train")[0]
    np.testing.assert_array_equal(first["image"], stored)


LIMITED = """
import resource, sys
from pathlib import Path
from ditask_jax.data.prepared.preparing import Wish, prepare
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
prepare(Wish("pascal", ("semseg", "normals")), Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_shard_that_cannot_be_written_stops_and_leaves_nothing_behind(tmp_path):
    miniature.write_pascal(tmp_path / "tree", train=12, val=1)
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "tree"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "DataError: data: " in done.stderr
    assert "array_record-00000-of-00001 cannot be written: " in done.stderr
    assert not (tmp_path / "out").exists()


def test_two_preparations_do_not_work_in_one_folder(pascal):
    root, out, _ = pascal
    inside = lambda *_: build("pascal", root, out)
    with pytest.raises(DataError, match=r"another preparation is working in .*out"):
        prepare(Wish("pascal", ("semseg",)), root, out, on_example=inside)
    assert not out.exists()


def test_a_file_is_no_folder_for_a_set(pascal):
    root, out, _ = pascal
    out.write_text("kept")
    with pytest.raises(ConfigError, match=r"out is a file; a prepared set needs a folder"):
        build("pascal", root, out)
    assert out.read_text() == "kept"


def test_what_is_not_ours_is_not_touched(pascal):
    root, out, _ = pascal
    (out / "pascal_mt/1.0.0").mkdir(parents=True)
    (out / "pascal_mt/1.0.0/own.txt").write_text("kept")
    with pytest.raises(DataError, match=r"was not prepared by this program; use another --out, or --replace"):
        build("pascal", root, out)
    assert (out / "pascal_mt/1.0.0/own.txt").read_text() == "kept"


def test_sets_are_told_apart(tmp_path):
    for package in ("atrc", "astmt"):
        miniature.write_nyud(tmp_path / package, package, train=2, val=1)
        build("nyud", tmp_path / package, tmp_path / "out", tasks=("depth",))
    with pytest.raises(DataError, match=r"holds several prepared sets; give one of them as the root: .*astmt.*atrc"):
        find_prepared(tmp_path / "out", "nyud")
    folder = tmp_path / "out/nyud_mt/atrc/1.0.0"
    assert len(open_multitask("nyud", folder, "train", ("depth",), depth_unit="millimetres", layout="atrc")) == 2
    with pytest.raises(DataError, match=r"data\.layout is astmt, but .* was prepared with atrc"):
        open_multitask("nyud", folder, "train", ("depth",), layout="astmt")
    with pytest.raises(DataError, match="is a prepared set of 'nyud'"):
        find_prepared(folder, "pascal")
    miniature.write_cityscapes(tmp_path / "c", train=1, val=1)
    build("cityscapes", tmp_path / "c", tmp_path / "out", depth_unit="metres")
    with pytest.raises(DataError, match=r"data\.depth_unit is pixels, but .* was prepared with metres"):
        open_multitask("cityscapes", tmp_path / "out", "train", ("depth",), depth_unit="pixels")


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(pascal, capsys, monkeypatch):
    from ditask_jax import cli
    from ditask_jax.data.__main__ import main
    from ditask_jax.data.prepared import tfds_builder

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    root, out, _ = pascal
    monkeypatch.setattr(tfds_builder, "encode", fail)
    assert cli.execute(main, ["build", "pascal", "--root", str(root), "--out", str(out)]) == cli.USER_ERROR
    assert "No space left on device" in capsys.readouterr().err
    assert not out.exists()
