"""Scenes: purity, exactness of the labels against independent reckonings, and the make-up of the data set."""

import hashlib
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ditask_jax.errors import ConfigError
from ditask_jax.scenes import CLASSES, PARTS, ScenesSource
from ditask_jax.scenes.canvas import GROUND, dice_for
from ditask_jax.scenes.scene_source import compose_scene

TASKS = ("semseg", "human_parts", "sal", "normals", "depth", "edge")


def digest(example) -> str:
    parts = [np.ascontiguousarray(example[key]).tobytes() for key in sorted(example) if key != "id"]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_an_example_is_the_same_in_another_process():
    code = "from tests.data.test_scenes import digest, ScenesSource;print(digest(ScenesSource('val', 48, seed=5)[11]))"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [digest(ScenesSource("val", 48, seed=5)[11])]


def test_an_example_does_not_depend_on_order_threads_count_tasks_or_pickling():
    source = ScenesSource("train", 48)
    forward = [source[k] for k in range(8)]
    backward = [source[k] for k in reversed(range(8))][::-1]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(source.__getitem__, range(8)))
    short = ScenesSource("train", 48, num_examples=8, tasks=("depth",))
    again = pickle.loads(pickle.dumps(source))
    for k in range(8):
        assert equal(forward[k], backward[k])
        assert equal(forward[k], threaded[k])
        assert equal(forward[k], again[k])
        assert np.array_equal(short[k]["image"], forward[k]["image"])
        assert np.array_equal(short[k]["depth"], forward[k]["depth"])
        assert set(short[k]) == {"image", "id", "depth"}


def test_seed_split_and_index_all_matter():
    reference = ScenesSource("train", 48)[0]["image"]
    for other in (ScenesSource("val", 48)[0], ScenesSource("train", 48, seed=1)[0], ScenesSource("train", 48)[1]):
        assert not np.array_equal(reference, other["image"])


@pytest.mark.parametrize("size", [(128, 128), (48, 80), (97, 33)])
def test_labels_are_legal(size):
    source = ScenesSource("train", size, seed=3)
    for k in range(25):
        example = source[k]
        image, semseg, parts = example["image"], example["semseg"], example["human_parts"]
        assert image.shape == (*size, 3)
        assert image.dtype == np.uint8
        for task in ("semseg", "human_parts", "sal", "edge"):
            assert example[task].shape == size
            assert example[task].dtype == np.uint8
        assert semseg.max() < len(CLASSES)
        assert parts.max() < len(PARTS)
        assert np.array_equal(parts > 0, semseg == CLASSES.index("person"))
        assert set(np.unique(example["sal"])) <= {0, 1}
        assert not (example["sal"] & (semseg <= GROUND - 1)).any(), "background and ground are never salient"
        assert set(np.unique(example["edge"])) <= {0, 1}
        normals, depth = example["normals"], example["depth"]
        assert normals.shape == (*size, 3)
        assert normals.dtype == depth.dtype == np.float32
        length = np.linalg.norm(normals, axis=-1)
        assert (np.isclose(length, 1, atol=1e-5) | (length == 0)).all()
        assert ((depth == 0) | ((depth > 0.1) & (depth <= 10))).all()
        assert not ((length == 0) & (depth > 0)).any(), "where there is depth there is a surface"


def test_normals_face_the_camera_and_agree_with_the_gradient_of_depth():
    """Oracle: the cross product of differences of neighbouring surface points, which knows nothing of the shapes."""
    errors = []
    for k in range(12):
        canvas = compose_scene(dice_for(0, "train", k), (160, 160), with_image=False)[1]
        rays, seen = canvas.camera.rays, np.isfinite(canvas.depth)
        normal = canvas.normal
        assert ((normal * rays).sum(0)[seen] <= 1e-3).all()
        points = np.where(seen, canvas.depth, 0) * rays
        right = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
        down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
        estimate = -np.cross(right, down, axis=0)
        estimate /= np.maximum(np.linalg.norm(estimate, axis=0), 1e-12)
        inside, middle = np.ones(seen[1:-1, 1:-1].shape, bool), canvas.instance[1:-1, 1:-1]
        for rows in (slice(0, -2), slice(1, -1), slice(2, None)):
            for columns in (slice(0, -2), slice(1, -1), slice(2, None)):
                inside &= (canvas.instance[rows, columns] == middle) & seen[rows, columns]
        cosine = (estimate * normal[:, 1:-1, 1:-1]).sum(0)[inside]
        errors.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    errors = np.concatenate(errors)
    # Creases between facets and limbs are rightly far off; flat and smooth surfaces dominate.
    assert np.median(errors) < 0.2
    assert np.mean(errors < 5) > 0.95


def test_depth_of_the_ground_is_where_the_rays_meet_it():
    canvas = compose_scene(dice_for(0, "val", 4), (64, 64), with_image=False)[1]
    camera, ground = canvas.camera, canvas.instance == GROUND
    assert ground.any()
    above = camera.height + (camera.up[:, None, None] * camera.rays).sum(0) * canvas.depth
    assert np.abs(above[ground]).max() < 1e-3 * canvas.depth[ground].max()


def test_edges_are_the_nearer_sides_of_boundaries():
    canvas = compose_scene(dice_for(0, "train", 0), (40, 56), with_image=False)[1]
    example = ScenesSource("train", (40, 56))[0]
    expected = np.zeros((40, 56), np.uint8)
    for y in range(40):
        for x in range(56):
            for v, u in ((y, x + 1), (y + 1, x)):
                if v < 40 and u < 56 and canvas.instance[y, x] != canvas.instance[v, u]:
                    nearer = (y, x) if canvas.depth[y, x] <= canvas.depth[v, u] else (v, u)
                    expected[nearer] = 1
    assert np.array_equal(example["edge"], expected)
    assert 0.005 < expected.mean() < 0.2


def test_salient_things_are_whole_visible_things_with_the_best_scores():
    for k in range(10):
        canvas = compose_scene(dice_for(0, "train", k), (64, 64), with_image=False)[1]
        sal = ScenesSource("train", 64)[k]["sal"]
        scores = {}
        for instance in range(GROUND + 1, len(canvas.classes)):
            y, x = np.nonzero(canvas.instance == instance)
            if len(y) >= 0.01 * 64 * 64:
                square = ((y + 0.5) / 64 - 0.5) ** 2 + ((x + 0.5) / 64 - 0.5) ** 2
                scores[instance] = np.exp(-square / (2 * 0.3**2)).sum()
        best = max(scores.values(), default=0)
        chosen = [instance for instance, score in scores.items() if score >= 0.6 * best]
        assert np.array_equal(sal == 1, np.isin(canvas.instance, chosen))


def test_the_data_set_has_people_in_about_half_of_the_pictures_and_all_classes_and_parts():
    source = ScenesSource("val", 64)
    examples = [source[k] for k in range(120)]
    people = np.mean([(example["human_parts"] > 0).mean() > 0.01 for example in examples])
    assert 0.4 < people < 0.7
    classes = np.bincount(np.concatenate([example["semseg"].ravel() for example in examples]), minlength=12)
    assert (classes / classes.sum() > 0.003).all()
    parts = np.bincount(np.concatenate([example["human_parts"].ravel() for example in examples]), minlength=7)[1:]
    assert (parts / parts.sum() > 0.05).all()
    assert np.mean([example["sal"].any() for example in examples]) > 0.9


def test_colour_is_a_hint_and_not_the_answer():
    """The nearest mean colour per class, fitted on the very same images, is right for less than half."""
    source = ScenesSource("train", 48, tasks=("semseg",))
    examples = [source[k] for k in range(60)]
    pixels = np.concatenate([example["image"].reshape(-1, 3) for example in examples]).astype(np.float32)
    classes = np.concatenate([example["semseg"].ravel() for example in examples])
    things = classes > 1
    pixels, classes = pixels[things], classes[things]
    means = np.stack([pixels[classes == c].mean(0) for c in range(2, 12)])
    guess = 2 + ((pixels[:, None] - means) ** 2).sum(-1).argmin(1)
    recall = np.mean([(guess[classes == c] == c).mean() for c in range(2, 12)])
    assert 0.15 < recall < 0.45  # chance is 0.1


def test_bad_arguments_are_named():
    with pytest.raises(ConfigError, match=r"scenes: split: unknown name 'valid'\. Did you mean 'val'\?"):
        ScenesSource("valid")
    with pytest.raises(ConfigError, match=r"scenes: task: unknown name 'depht'\. Did you mean 'depth'\?"):
        ScenesSource("val", tasks=("depht",))
    with pytest.raises(ConfigError, match="too small"):
        ScenesSource("val", size=8)
    with pytest.raises(ConfigError, match="num_examples must be at least 1"):
        ScenesSource("val", num_examples=0)
