"""VTAB-1k: the table of tasks, lists of files and catalogue sets, each read back against what was written."""

import io
import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ditask_jax import cli
from ditask_jax.data import open_source
from ditask_jax.data.__main__ import main
from ditask_jax.data.vtab import GROUPS, VTAB_TASKS, VtabListSource, VtabPreparedSource, open_vtab, prepare_vtab
from ditask_jax.errors import ConfigError, DataError

# Names and numbers of classes as the benchmark's table has them.
TABLE = {
    "cifar100": 100, "caltech101": 102, "dtd": 47, "oxford_flowers102": 102, "oxford_iiit_pet": 37, "svhn": 10,
    "sun397": 397, "patch_camelyon": 2, "eurosat": 10, "resisc45": 45, "diabetic_retinopathy": 5, "clevr_count": 8,
    "clevr_dist": 6, "dmlab": 6, "kitti_dist": 4, "dsprites_loc": 16, "dsprites_ori": 16, "smallnorb_azi": 18,
    "smallnorb_ele": 9,
}  # fmt: skip


def test_the_table():
    assert {name: task.num_classes for name, task in VTAB_TASKS.items()} == TABLE
    groups = [task.group for task in VTAB_TASKS.values()]
    assert [groups.count(group) for group in GROUPS] == [7, 4, 8]
    assert groups == sorted(groups, key=GROUPS.index)


def picture(rng, size=(9, 12)):
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture
def tree(tmp_path):
    """Two tasks in the layout of lists: PNG images, one of them grey, and one name with a space in it."""
    rng = np.random.default_rng(0)
    written = {}
    for folder, classes in (("cifar", 100), ("svhn", 10)):
        root = tmp_path / folder
        lines = {}
        for part, count in (("train800", 6), ("val200", 3), ("test", 5)):
            (root / "images" / part).mkdir(parents=True)
            lines[part] = []
            for k in range(count):
                name = f"images/{part}/{k:06d}.png" if k else f"images/{part}/the first.png"
                array = picture(rng)
                if k == 1:
                    array = np.repeat(array[..., :1], 3, axis=2)
                    Image.fromarray(array[..., 0]).save(root / name)
                else:
                    Image.fromarray(array).save(root / name)
                label = int(rng.integers(classes))
                lines[part].append(f"{name} {label}")
                written[folder, part, k] = (array, label)
        lines["train800val200"] = lines["train800"] + lines["val200"]
        for part, text in lines.items():
            (root / f"{part}.txt").write_text("\n".join(text) + "\n")
    return tmp_path, written


@pytest.mark.parametrize(
    ("split", "tuning", "parts"),
    [
        ("train", False, [("train800", 6), ("val200", 3)]),
        ("val", False, [("test", 5)]),
        ("train", True, [("train800", 6)]),
        ("val", True, [("val200", 3)]),
    ],
)
def test_lists_give_back_what_was_written(tree, split, tuning, parts):
    root, written = tree
    for task, folder in (("cifar100", "cifar"), ("svhn", "svhn")):
        source = open_source("vtab", split, ["classification"], root, task=task, tuning=tuning)
        want = [written[folder, part, k] for part, count in parts for k in range(count)]
        assert len(source) == len(want)
        for k, (array, label) in enumerate(want):
            np.testing.assert_array_equal(source[k]["image"], array)
            assert source[k]["classification"] == label
    assert len(open_vtab(root, split, "svhn", tuning, num_examples=2)) == 2
    assert isinstance(open_vtab(root / "svhn", split, "svhn"), VtabListSource)
    assert pickle.loads(pickle.dumps(source))[1]["classification"] == source[1]["classification"]


def test_a_list_may_begin_with_a_byte_order_mark(tree):
    """As editors of Windows write it, and as lists of other data sets may."""
    root, _ = tree
    file = root / "svhn/test.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert open_vtab(root, "val", "svhn")[0]["id"] == "the first.png"


def test_a_rotated_photograph_is_taken_as_it_is_stored(tree):
    root, _ = tree
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((6, 10, 3), np.uint8)).save(root / "svhn/images/test/000002.png", exif=exif)
    assert open_vtab(root, "val", "svhn")[2]["image"].shape == (6, 10, 3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("test.txt", "images/test/000001.png 10", r"test\.txt, line 1: class 10, but 'svhn' has classes 0 to 9"),
        (
            "test.txt",
            "images/test/000001.png",
            r"test\.txt, line 1: got 'images/test/000001\.png', expected 'relative/",
        ),
        ("test.txt", "\nimages/test/a.png -1", r"line 2: got 'images/test/a\.png -1', expected"),
        ("test.txt", "images/test/9.png 1\nb/8.png 1", r"images/test/9\.png and 1 more of the list is missing"),
        ("test.txt", "\n \n", r"test\.txt is empty"),
        ("test.txt", None, r"svhn/test\.txt is missing; it lists the images"),
    ],
)
def test_damaged_lists_are_named(tree, name, text, message):
    root, _ = tree
    file = root / "svhn" / name
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        open_vtab(root, "val", "svhn")
    assert "\n" not in str(caught.value)


def test_a_truncated_picture_is_named(tree):
    root, _ = tree
    file = root / "svhn/images/test/000003.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match=r"images/test/000003\.png cannot be decoded|is not an image file"):
        open_vtab(root, "val", "svhn")[3]


def test_doctor_examines_the_tasks_that_are_there(tree, capsys):
    root, _ = tree
    doctor = lambda *options: cli.execute(main, ["doctor", "vtab", "--root", str(root), *options])
    assert doctor() == cli.OK
    out = capsys.readouterr().out
    for task, count in (("cifar100", 100), ("svhn", 10)):
        assert f"vtab {task} in {root}\n  train: 9 examples; 1000 were published\n  val: 5 examples\n" in out
        assert f" of {count} classes among 14 images" in out
    assert out.count("verdict: ready for training on classification") == 2
    (root / "svhn/images/test/000003.png").write_bytes(b"no image")
    (root / "svhn/images/train800/the first.png").unlink()
    assert doctor("--task", "svhn") == 1
    out = capsys.readouterr().out
    assert "broken: train image:\n  vtab: " in out
    assert "images/train800/the first.png of the list is missing" in out
    assert "000003.png is not an image file" in out
    assert out.splitlines()[-1] == "verdict: training on classification would fail"
    assert doctor("--task", "cifar100") == cli.OK
    assert doctor("--task", "svnh") == cli.USER_ERROR
    assert "Did you mean 'svhn'?" in capsys.readouterr().err
    assert cli.execute(main, ["doctor", "vtab", "--root", str(root / "svhn/images")]) == 1
    assert "holds none of the 19 tasks" in capsys.readouterr().out


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.vtab_task: unknown name 'cifar10'\. Did you mean 'cifar100'\?"):
        open_vtab(tmp_path, "val", "cifar10")
    with pytest.raises(ConfigError, match=r"data\.vtab_task: got None, expected one of cifar100"):
        open_source("vtab", "val", ["classification"], tmp_path)
    with pytest.raises(DataError, match=r"'vtab' needs data\.root"):
        open_vtab(None, "val", "dtd")
    with pytest.raises(DataError, match=r"is not a folder"):
        open_vtab(tmp_path / "no", "val", "dtd")
    with pytest.raises(DataError, match=r"holds no 'dtd': neither .*dtd/train800val200\.txt .* nor .*dtd \(prepared"):
        open_vtab(tmp_path, "val", "dtd")


def test_preparing_without_tensorflow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"preparing .dtd. .* needs tensorflow and .* pip install tensorflow-cpu"):
        prepare_vtab("dtd", tmp_path)
    assert not any(tmp_path.iterdir())


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return io.BytesIO(buffer.getvalue())


class Clevr(tfds.core.GeneratorBasedBuilder):
    """A small set with the name and the features of the catalogue's."""

    VERSION = tfds.core.Version("3.1.0")
    name = "clevr"
    code_path = None  # where checksums of downloads would be; looking for it needs a package that is not installed

    def _info(self):
        coordinates = tfds.features.Tensor(shape=(3,), dtype=np.float32)
        objects = tfds.features.Sequence({"pixel_coords": coordinates})
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "objects": objects})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples(300, 0), "validation": self._generate_examples(20, 1)}

    def _generate_examples(self, count, seed):
        rng = np.random.default_rng(seed)
        for k in range(count):
            objects = [{"pixel_coords": rng.uniform(5, 14, 3).astype(np.float32)} for _ in range(3 + k % 8)]
            yield k, {"image": png(picture(rng, (5, 7))), "objects": objects}


@pytest.fixture(scope="module")
def clevr(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    builder = Clevr(data_dir=str(root), file_format="array_record")
    builder.download_and_prepare()
    return root, builder


def test_catalogue_sets_are_read_by_the_benchmarks_splits_and_labels(clevr):
    root, builder = clevr
    train, test = builder.as_data_source("train"), builder.as_data_source("validation")
    for task in ("clevr_count", "clevr_dist"):
        sources = {(split, tuning): open_vtab(root, split, task, tuning) for split in ("train", "val")
                   for tuning in (False, True)}  # fmt: skip
        # Of 300: the first 800 are all of them, the next 200 begin after 90 %.
        assert {key: len(source) for key, source in sources.items()} == {
            ("train", False): 330, ("train", True): 300, ("val", False): 20, ("val", True): 30,
        }  # fmt: skip
        for mine, theirs, offset in (("train", train, 0), ("val", test, 0)):
            for k in (0, 7, 19):
                found, raw = sources[mine, False][k], theirs[k + offset]
                np.testing.assert_array_equal(found["image"], raw["image"])
                depths = [float(point[2]) for point in raw["objects"]["pixel_coords"]]
                count, nearest = len(depths) - 3, min(depths)
                edges = [0, 8, 8.5, 9, 9.5, 10, 100]
                inside = next(i for i in range(6) if edges[i] < nearest <= edges[i + 1])
                assert found["classification"] == (count if task == "clevr_count" else inside)
        np.testing.assert_array_equal(sources["val", True][4]["image"], train[274]["image"])
        np.testing.assert_array_equal(sources["train", False][304]["image"], train[274]["image"])
    copy = pickle.loads(pickle.dumps(sources["val", False]))
    assert isinstance(copy, VtabPreparedSource)
    assert copy[3]["classification"] == sources["val", False][3]["classification"]
    assert len(open_vtab(root, "train", "clevr_count", num_examples=5)) == 5
    assert "tensorflow" not in sys.modules


def test_labels_of_the_other_structured_tasks():
    labels = {name: task.label for name, task in VTAB_TASKS.items()}
    assert [labels["dsprites_loc"]({"label_x_position": k}) for k in (0, 1, 2, 31)] == [0, 0, 1, 15]
    assert [labels["dsprites_ori"]({"label_orientation": k}) for k in (0, 2, 3, 39)] == [0, 0, 1, 15]
    assert {labels["dsprites_ori"]({"label_orientation": k}) for k in range(40)} == set(range(16))
    assert labels["smallnorb_azi"]({"label_azimuth": 17, "label_elevation": 3}) == 17
    assert labels["smallnorb_ele"]({"label_azimuth": 17, "label_elevation": 3}) == 3

    def kitti(*objects):
        return {"objects": {"type": [kind for kind, _ in objects], "location": [[0, 0, z] for _, z in objects]}}

    nearest = labels["kitti_dist"]
    assert nearest(kitti((0, 25.0), (2, 12.0), (3, 1.0))) == 1, "a pedestrian (3) is no vehicle"
    assert nearest(kitti((1, -2.0))) == 0
    assert nearest(kitti((0, 20.5))) == 2
    assert nearest(kitti((5, 4.0))) == 3, "no vehicle at all"
    assert nearest(kitti()) == 3
