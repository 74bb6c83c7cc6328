"""Writes miniature trees of every supported layout, in the real file formats, and says what each label should read as.

Every `write_*` function returns `{split: {id: {"image": array, task: label, ...}}}`: labels as a source must give them
(uint8 class maps with 255 = ignore, float32 normals and depth with zero = missing). Images are smooth blobs, so that
JPEG changes them little and a tiny model can learn from them; the returned image is what the written file decodes to.
"""

import io
import json
import pathlib

import cv2
import numpy as np
import scipy.io
from PIL import Image

PASCAL_TASKS = ("semseg", "human_parts", "sal", "normals", "edge")
NYUD_TASKS = ("semseg", "depth", "normals", "edge")
CITYSCAPES_TASKS = ("semseg", "depth")
CCP_TASKS = ("semseg", "human_parts", "sal", "edge")
BSDS_TASKS = ("edge",)
CAMVID_TASKS = ("semseg", "edge")
NYUD_PACKAGES = ("astmt", "vandenhende", "atrc")

# Context classes with normals (3 bag, 284 person) and without (1 accordion, 2 aeroplane, 459 zebra-like rest).
CONTEXT_IDS = (3, 284, 1, 2, 459)
CONTEXT_IDS_WITH_NORMALS = (3, 284)
PART_VALUES = {"head": 1, "leye": 1, "torso": 2, "neck": 2, "ruarm": 3, "lhand": 4, "luleg": 5, "rfoot": 6}
CITYSCAPES_RAW_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# Number of CCP's files -> class of semseg, class of human_parts: null, boots, dress, hair, skin, sunglasses, watch.
CCP_NUMBERS = {0: (0, 0), 7: (9, 5), 14: (5, 3), 19: (2, 1), 41: (1, 2), 47: (11, 1), 57: (12, 6)}
CAMERA = {"baseline": 0.209313, "fx": 2262.52}

Written = dict[str, dict[str, dict[str, np.ndarray]]]


def write_pascal(root, train=6, val=3, size=(48, 64), seed=0, tasks=PASCAL_TASKS) -> Written:
    """`PASCAL_MT/`; example 0 of a split has nobody in it, example 1 a person without parts, the others two people."""
    root, rng = pathlib.Path(root), np.random.default_rng(seed)
    written: Written = {}
    for split, count in (("train", train), ("val", val)):
        names = [f"{2008 + (k % 3)}_{seed:02d}{split == 'val':d}{k:03d}" for k in range(count)]
        written[split] = {name: _pascal_example(root, name, k, size, rng, tasks) for k, name in enumerate(names)}
        _write_text(root / f"ImageSets/Context/{split}.txt", "".join(f"{name}\n" for name in names))
    return written


def _pascal_example(root, name, number, size, rng, tasks) -> dict[str, np.ndarray]:
    example = {"image": write_jpeg(root / f"JPEGImages/{name}.jpg", smooth_image(rng, size))}
    if "semseg" in tasks:
        classes = blobs(rng, size, (0, 1, 12, 15, 20, 255))
        folder = "pascal-context" if number % 3 == 2 else "VOC12"
        write_palette_png(root / f"semseg/{folder}/{name}.png", classes)
        if folder == "VOC12":  # the fallback must then not be read
            write_grey_png(root / f"semseg/pascal-context/{name}.png", np.zeros(size, np.uint8))
        example["semseg"] = classes
    if "human_parts" in tasks:
        example["human_parts"] = write_parts(root / f"human_parts/{name}.mat", size, number, rng)
    if "sal" in tasks:
        grey = rng.integers(0, 256, size).astype(np.uint8)
        grey[0, :2] = (127, 128)
        write_grey_png(root / f"sal_distill/{name}.png", grey)
        example["sal"] = (grey >= 128).astype(np.uint8)
    if {"normals", "edge"} & set(tasks):
        context = blobs(rng, size, CONTEXT_IDS).astype(np.uint16)
        path = root / f"pascal-context/trainval/{name}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(path, {"LabelMap": context}, do_compression=True)
        example["context"] = context
    if "normals" in tasks:
        colours = unit_colours(rng, size)
        write_png(root / f"normals_distill/{name}.png", colours)
        normals = colours.astype(np.float32) * np.float32(2 / 255) - 1
        normals[~np.isin(context, CONTEXT_IDS_WITH_NORMALS)] = 0
        example["normals"] = normals
    return example


def write_parts(path: pathlib.Path, size, number: int, rng) -> np.ndarray:
    """A PASCAL-Part annotation with nested structs; returns the merged map (zeros where nobody has parts)."""
    merged = np.zeros(size, np.uint8)
    objects = [("cat", 8, _box(rng, size), [("head", _box(rng, size))])]
    if number == 1:
        objects.append(("person", 15, _box(rng, size), []))
    elif number > 1:
        for _ in range(2):
            parts = [(part, _box(rng, size)) for part in rng.permutation(list(PART_VALUES))]
            objects.append(("person", 15, np.ones(size, np.uint8), parts))
            for part, mask in parts:
                merged[mask > 0] = PART_VALUES[part]
    records = []
    for class_name, class_index, mask, parts in objects:
        part_array = _structs(("part_name", "mask"), [(str(part), area) for part, area in parts])
        records.append((class_name, class_index, mask, part_array if parts else np.zeros((0, 0))))
    anno = _structs(("imname", "objects"), [(path.stem, _structs(("class", "class_ind", "mask", "parts"), records))])
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"anno": anno}, do_compression=True)
    return merged


def write_nyud(
    root, package="vandenhende", train=4, val=2, size=(48, 64), seed=0, tasks=NYUD_TASKS, millimetres=False
) -> Written:
    """One of the three incompatible packages of NYUDv2."""
    root, rng = pathlib.Path(root), np.random.default_rng(seed)
    written: Written = {}
    for split, count in (("train", train), ("val", val)):
        names = [f"{1000 * (split == 'val') + 17 * k + 2:04d}" for k in range(count)]
        _write_text(root / f"gt_sets/{split}.txt", "\n".join(names))
        written[split] = {name: _nyud_example(root, name, size, rng, package, tasks, millimetres) for name in names}
    return written


def _nyud_example(root, name, size, rng, package, tasks, millimetres) -> dict[str, np.ndarray]:
    image = smooth_image(rng, size)
    if package == "atrc":
        example = {"image": write_png(root / f"images/{name}.png", image)}
    else:
        example = {"image": write_jpeg(root / f"images/{name}.jpg", image)}
    if "semseg" in tasks:
        stored = blobs(rng, size, (0, 1, 2, 17, 40))
        if package == "astmt":
            write_mat(root / f"segmentation/{name}.mat", "segmentation", stored)
        else:
            write_grey_png(root / f"segmentation/{name}.png", stored)
        example["semseg"] = np.where(stored == 0, 255, stored - 1).astype(np.uint8)
    if "depth" in tasks:
        metres = rng.uniform(0.5, 9.9, size).astype(np.float32)
        metres[rng.random(size) < 0.1] = 0
        stored = np.round(metres * 1000).astype(np.float32) if millimetres else metres
        if package == "astmt":
            write_mat(root / f"depth/{name}.mat", "depth", stored)
        else:
            _save_npy(root / f"depth/{name}.npy", stored)
        example["depth"] = stored * np.float32(0.001) if millimetres else stored
    if "normals" in tasks:
        example["normals"] = _nyud_normals(root, name, size, rng, package)
    if "edge" in tasks:
        edge = (rng.random(size) < 0.2).astype(np.uint8)
        if package == "vandenhende":
            _save_npy(root / f"edge/{name}.npy", edge.astype(np.float32))
        else:
            write_grey_png(root / f"edge/{name}.png", edge * 255)
        example["edge"] = edge
    return example


def _nyud_normals(root, name, size, rng, package) -> np.ndarray:
    if package == "vandenhende":
        vectors = rng.standard_normal((*size, 3)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        vectors[:5] = 0
        _save_npy(root / f"normals/{name}.npy", vectors)
        return vectors
    colours = unit_colours(rng, size, smooth=package == "astmt")
    colours[:16] = 128  # the grey that zero becomes; whole JPEG blocks of it stay nearly grey
    if package == "atrc":
        colours = write_png(root / f"normals/{name}.png", colours)
    else:
        colours = write_jpeg(root / f"normals/{name}.jpg", colours)
    vectors = colours.astype(np.float32) * np.float32(2 / 255) - 1
    vectors[np.linalg.norm(vectors, axis=-1) < (0.25 if package == "astmt" else 0.01)] = 0
    return vectors


def write_cityscapes(root, train=4, val=2, size=(48, 96), seed=0, tasks=CITYSCAPES_TASKS) -> Written:
    """The official tree; "depth" is disparity in pixels, "metres" the metric depth that the camera files give."""
    root, rng = pathlib.Path(root), np.random.default_rng(seed)
    written: Written = {}
    for split, count, cities in (("train", train, ("aachen", "zurich")), ("val", val, ("munster",))):
        written[split] = {}
        for k in range(count):
            city = cities[k % len(cities)]
            written[split].update(_cityscapes_example(root, split, city, k, size, rng, tasks))
        written[split] = dict(sorted(written[split].items()))
    return written


def _cityscapes_example(root, split, city, number, size, rng, tasks):
    name = f"{city}_{number:06d}_000019"
    place = lambda folder, ending: root / folder / split / city / f"{name}_{ending}"
    example = {"image": write_png(place("leftImg8bit", "leftImg8bit.png"), smooth_image(rng, size))}
    if "semseg" in tasks:
        stored = blobs(rng, size, (0, 1, 4, 7, 8, 11, 23, 26, 33))
        write_grey_png(place("gtFine", "gtFine_labelIds.png"), stored)
        lookup = np.full(256, 255, np.uint8)
        lookup[list(CITYSCAPES_RAW_IDS)] = np.arange(19)
        example["semseg"] = lookup[stored]
    if "depth" in tasks:
        stored = rng.integers(2, 32258, size).astype(np.uint16)
        stored[rng.random(size) < 0.2] = 0
        stored[0, :2] = (1, 65535)
        path = place("disparity", "disparity.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), stored)
        factor = CAMERA["baseline"] * (CAMERA["fx"] + number)
        camera = {"extrinsic": {"baseline": CAMERA["baseline"]}, "intrinsic": {"fx": CAMERA["fx"] + number}}
        _write_text(place("camera", "camera.json"), json.dumps(camera))
        pixels = np.where(stored > 0, (stored.astype(np.float64) - 1) / 256, 0)
        example["depth"] = pixels.astype(np.float32)
        with np.errstate(divide="ignore"):
            example["metres"] = np.where(pixels > 0, factor / pixels, 0).astype(np.float32)
    return {name: example}


def write_mtan(root, train=4, val=2, size=(32, 64), seed=0, classes=(7, 19)) -> Written:
    """The MTAN package of Cityscapes; "semseg" is the map of the last of `classes`, "semseg_7" the one of 7."""
    root, rng = pathlib.Path(root), np.random.default_rng(seed)
    written: Written = {}
    for split, count in (("train", train), ("val", val)):
        written[split] = {}
        for k in range(count):
            image = smooth_image(rng, size)
            _save_npy(root / split / f"image/{k}.npy", image.astype(np.float64) / 255)
            example = {"image": image}
            for number in classes:
                labels = blobs(rng, size, (-1, 0, 3, number - 1), np.float32)
                _save_npy(root / split / f"label_{number}/{k}.npy", labels)
                example["semseg"] = example[f"semseg_{number}"] = np.where(labels < 0, 255, labels).astype(np.uint8)
            depth = rng.uniform(0.01, 0.5, (*size, 1)).astype(np.float32)
            depth[:3] = 0
            _save_npy(root / split / f"depth/{k}.npy", depth)
            written[split][str(k)] = example | {"depth": depth[..., 0]}
    return written


def write_ccp(root, train=4, val=2, size=(56, 40), seed=0, tasks=CCP_TASKS) -> Written:
    """A clone of Clothing Co-Parsing, with a photograph that has no annotation; "edge" is the borders of "regions"."""
    root, rng = pathlib.Path(root), np.random.default_rng(seed)
    everything = range(1, 5 * max(train, val) + 1)
    numbers = {
        "train": [k for k in everything if k % 5][:train],
        "val": [k for k in everything if k % 5 == 0][:val],
    }
    written: Written = {}
    for split, chosen in numbers.items():
        written[split] = {f"{k:04d}": _ccp_example(root, f"{k:04d}", size, rng) for k in chosen}
    write_jpeg(root / "photos/1005.jpg", smooth_image(rng, size))
    return written


def _ccp_example(root, name, size, rng) -> dict[str, np.ndarray]:
    regions = blobs(rng, size, tuple(CCP_NUMBERS))
    write_mat(root / f"annotations/pixel-level/{name}.mat", "groundtruth", regions)
    classes = np.zeros((256, 2), np.uint8)
    for number, pair in CCP_NUMBERS.items():
        classes[number] = pair
    return {
        "image": write_jpeg(root / f"photos/{name}.jpg", smooth_image(rng, size)),
        "semseg": classes[regions, 0],
        "human_parts": classes[regions, 1],
        "sal": (regions != 0).astype(np.uint8),
        "regions": regions,
    }


def write_camvid(root, train=4, val=2, size=(36, 48), seed=0, tasks=CAMVID_TASKS, scored="val") -> Written:
    """The folder `CamVid` of SegNet's tutorial; what stands for "val" is the folder `scored`, and there is no other."""
    root, rng = pathlib.Path(root), np.random.default_rng(seed)
    written: Written = {}
    for split, count in (("train", train), ("val", val)):
        folder = scored if split == "val" else split
        names = [f"0001TP_{6690 + 30 * k:06d}" for k in range(count)]
        lines = [f"/SegNet/CamVid/{folder}/{name}.png /SegNet/CamVid/{folder}annot/{name}.png" for name in names]
        _write_text(root / f"{folder}.txt", "\n".join(lines) + "\n")
        written[split] = {}
        for name in names:
            stored = blobs(rng, size, (0, 1, 4, 8, 10, 11))
            write_grey_png(root / f"{folder}annot/{name}.png", stored)
            image = write_png(root / f"{folder}/{name}.png", smooth_image(rng, size))
            classes = np.where(stored == 11, 255, stored).astype(np.uint8)
            written[split][name] = {"image": image, "semseg": classes, "regions": classes}
    return written


def write_bsds(root, train=3, val=2, size=(40, 56), seed=0, tasks=BSDS_TASKS, scored="test") -> Written:
    """The folder `BSDS500`: one annotator more from photograph to photograph; `val` trains too if `test` is scored."""
    root, rng = pathlib.Path(root), np.random.default_rng(seed)
    written: Written = {"train": {}, "val": {}}
    folders = [("train", "train", train)] + ([("train", "val", 1)] if scored == "test" else [])
    for split, folder, count in [*folders, ("val", scored, val)]:
        for k in range(count):
            name = f"{len(folder)}{seed}{k:03d}"
            image = write_jpeg(root / f"data/images/{folder}/{name}.jpg", smooth_image(rng, size))
            drawn = [(rng.random(size) < 0.1).astype(np.uint8) for _ in range(4 + k)]
            cells = np.empty((1, len(drawn)), object)
            for number, outlines in enumerate(drawn):
                cells[0, number] = _structs(("Segmentation", "Boundaries"), [(outlines.astype(np.uint16), outlines)])
            write_mat(root / f"data/groundTruth/{folder}/{name}.mat", "groundTruth", cells)
            packed = sum(outlines.astype(np.uint16) << number for number, outlines in enumerate(drawn))
            written[split][name] = {"image": image, "edge": packed + np.uint16(len(drawn) << 12)}
        (root / f"data/images/{folder}/Thumbs.db").write_bytes(b"")
    return written


def smooth_image(rng, size) -> np.ndarray:
    """Blurred noise, uint8 [H, W, 3]."""
    noise = rng.integers(0, 256, (*size, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 3)
    low, high = blurred.min(), blurred.max()
    return np.round((blurred - low) / (high - low) * 255).astype(np.uint8)


def blobs(rng, size, values, dtype=np.uint8) -> np.ndarray:
    """A map of coarse patches, each of `values` at least once."""
    rows, columns = -(-size[0] // 8), -(-size[1] // 8)
    patches = rng.choice(values, (rows, columns))
    patches.reshape(-1)[rng.permutation(rows * columns)[: len(values)]] = values
    return np.kron(patches, np.ones((8, 8), patches.dtype))[: size[0], : size[1]].astype(dtype)


def unit_colours(rng, size, smooth=False) -> np.ndarray:
    """Unit vectors coded as colours, uint8 [H, W, 3]."""
    vectors = rng.standard_normal((*size, 3)).astype(np.float32)
    if smooth:
        vectors = cv2.GaussianBlur(vectors, (0, 0), 6)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.round((vectors + 1) * 127.5).astype(np.uint8)


def write_jpeg(path: pathlib.Path, image: np.ndarray, **options) -> np.ndarray:
    """Writes a JPEG and returns what it decodes to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90, **options)
    path.write_bytes(buffer.getvalue())
    return np.asarray(Image.open(buffer).convert("RGB"))


def write_png(path: pathlib.Path, image: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return image


def write_grey_png(path: pathlib.Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), values)


def write_palette_png(path: pathlib.Path, indices: np.ndarray) -> None:
    """A PNG whose colours differ from its class indices, as PASCAL stores them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.frombytes("P", (indices.shape[1], indices.shape[0]), indices.tobytes())
    image.putpalette([value for k in range(256) for value in ((k * 37) % 256, (k * 91) % 256, 255 - k)])
    image.save(path)


def write_mat(path: pathlib.Path, variable: str, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {variable: values}, do_compression=True)


def _box(rng, size) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    top, left = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
    mask[top : top + 8, left : left + 8] = 1
    return mask


def _structs(names, rows) -> np.ndarray:
    """A MATLAB struct array [1, N] of rows of values."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in names])
    for k, row in enumerate(rows):
        for name, value in zip(names, row, strict=True):
            array[0, k][name] = value
    return array


def _save_npy(path: pathlib.Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def _write_text(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
