"""Writes a PASCAL_MT tree of generated scenes at the size of the real images, in the real file formats."""

import pathlib

import cv2
import numpy as np
import scipy.io
from PIL import Image

from ditask_jax.scenes import ScenesSource

SIZE = (375, 500)
PARTS = ("head", "torso", "ruarm", "rlarm", "luleg", "llleg")
# Context classes with and without normals.
WALL, SKY = 454, 360


def write_tree(root: pathlib.Path, examples: int, quality: int = 92) -> float:
    """Writes `examples` training and one validation example; returns the mean size of a JPEG in bytes.

    The files are about as large as the real ones: photographs of this size in PASCAL VOC take 110 kB.
    """
    sizes = []
    for split, count in (("train", examples), ("val", 1)):
        source = ScenesSource(split, SIZE, num_examples=count)
        names = [f"{split}_{k:06d}" for k in range(count)]
        for name, example in zip(names, source, strict=True):
            sizes.append(_write(root, name, example, quality))
        path = root / f"ImageSets/Context/{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names))
    return float(np.mean(sizes))


def _write(root: pathlib.Path, name: str, example: dict, quality: int) -> int:
    rng = np.random.default_rng(len(name) + int(name[-6:]))
    grain = cv2.GaussianBlur(rng.normal(0, 60, (*SIZE, 3)), (0, 0), 1.2) + rng.normal(0, 4, (*SIZE, 3))
    picture = np.clip(example["image"] + grain, 0, 255).astype(np.uint8)
    jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    _save(root / f"JPEGImages/{name}.jpg", jpeg)
    semseg = Image.fromarray(example["semseg"]).convert("P")
    semseg.putpalette(list(range(256)) * 3)
    _save_image(root / f"semseg/VOC12/{name}.png", semseg)
    soft = cv2.GaussianBlur(example["sal"].astype(np.float32), (0, 0), 3)
    _save_image(root / f"sal_distill/{name}.png", Image.fromarray((soft * 255).astype(np.uint8)))
    # Distilled normals are the smooth output of a network.
    normals = cv2.GaussianBlur(example["normals"] + rng.normal(0, 0.02, (*SIZE, 3)).astype(np.float32), (0, 0), 2)
    colours = np.clip(np.rint((normals + 1) * 127.5), 0, 255).astype(np.uint8)
    _save_image(root / f"normals_distill/{name}.png", Image.fromarray(colours))
    context = np.where(example["normals"].any(-1) & (example["semseg"] != 9), WALL, SKY).astype(np.uint16)
    _save_mat(root / f"pascal-context/trainval/{name}.mat", LabelMap=context)
    _save_mat(root / f"human_parts/{name}.mat", anno=_annotation(example["human_parts"]))
    return len(jpeg)


def _annotation(parts: np.ndarray) -> np.ndarray:
    """PASCAL-Part's nested structs: one person with the parts there are, or no object."""
    objects = []
    if parts.any():
        entries = [(PARTS[k - 1], (parts == k).astype(np.uint8)) for k in range(1, 7) if (parts == k).any()]
        objects.append(("person", 15, (parts > 0).astype(np.uint8), _structs(("part_name", "mask"), entries)))
    return _structs(("imname", "objects"), [("x", _structs(("class", "class_ind", "mask", "parts"), objects))])


def _structs(fields: tuple[str, ...], entries: list[tuple]) -> np.ndarray:
    array = np.empty((1, len(entries)), [(field, object) for field in fields])
    for k, entry in enumerate(entries):
        for field, value in zip(fields, entry, strict=True):
            array[0, k][field] = value
    return array


def _save(path: pathlib.Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _save_image(path: pathlib.Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _save_mat(path: pathlib.Path, **variables) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables, do_compression=True)
