"""Label files of declared tasks: how each kind is read, what is refused, and what the doctor proposes for them."""

import shlex

import cv2
import numpy as np
import pytest

from ditask_jax import cli
from ditask_jax.data.__main__ import main
from ditask_jax.data.augment import Augmentation, Draw, transform
from ditask_jax.data.declared_labels import DeclaredLabel
from ditask_jax.data.folder import FolderSource
from ditask_jax.data.proposals import propose
from ditask_jax.errors import DataError
from ditask_jax.tasks.declared import declared_task, label_facts

COLOURS = ("#000000", "#ff0000", "#00ff00")


def form(name="own", **said):
    return DeclaredLabel(**label_facts(name, said))


def save(path, array):
    """A label file: `.npy` as it is, `.png` with colours as RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)
    return path


def write_folder(root, count=6, size=(12, 16)):
    """Images with a class map by number, one by colour, and a heat map."""
    rng, colours = np.random.default_rng(0), np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
    for k in range(count):
        split, maps = root / "train", rng.integers(0, 3, (2, *size)).astype(np.uint8)
        maps[0, 0, :2] = 255
        save(split / "images" / f"p{k}.png", rng.integers(0, 256, (*size, 3), np.uint8))
        save(split / "garments" / f"p{k}.png", maps[0])
        save(split / "body-parts" / f"p{k}.png", colours[maps[1]])
        save(split / "heat" / f"p{k}.png", rng.integers(0, 256, size, np.uint8))
    return root


@pytest.mark.parametrize("ending", [".png", ".npy"])
def test_classes_by_number(ending, tmp_path):
    path = save(tmp_path / f"a{ending}", np.array([[0, 128], [200, 255], [7, 0]], np.uint8))
    read = form(kind="classes", classes=("a", "b", "c"), ids=(0, 128, 200), ignore=(255, 7)).read(path)
    assert read.dtype == np.uint8
    assert read.tolist() == [[0, 1], [2, 255], [255, 0]]
    wide = save(tmp_path / "b.npy", np.array([[300, -1], [2, 300]], np.int16))
    assert form(kind="classes", classes=2, ids=(300, 2), ignore=-1).read(wide).tolist() == [[0, 255], [1, 0]]
    floats = save(tmp_path / "c.npy", np.array([[0.0, 1.0]]))
    assert form(kind="classes", classes=2).read(floats).tolist() == [[0, 1]]


def test_classes_by_colour(tmp_path):
    colours = np.array([[[0, 255, 0], [255, 0, 0]], [[0, 0, 0], [1, 2, 3]]], np.uint8)
    path = save(tmp_path / "a.png", colours)
    said = {"kind": "classes", "classes": ("none", "head", "hand"), "colours": COLOURS}
    assert form(**said, ignore="#010203").read(path).tolist() == [[2, 1], [0, 255]]
    with pytest.raises(
        DataError, match=r"holds 1 colour that .*colours has not, most often #010203 \(25.0 % of .*'none'"
    ):
        form(**said).read(path)
    with pytest.raises(
        DataError, match=r"is a colour image; say the colour of each class of 'own' by --config.task.own"
    ):
        form(kind="classes", classes=3).read(path)
    # With colours named, files of numbers are still read as numbers.
    assert form(**said).read(save(tmp_path / "b.png", np.array([[2, 255]], np.uint8))).tolist() == [[2, 255]]


@pytest.mark.parametrize(
    ("said", "array", "line"),
    [
        (
            {"classes": 3},
            np.array([[0, 3, 9]], np.uint8),
            "holds the class numbers 3, 9; task.own has 0..2 (3 classes)",
        ),
        ({"classes": 2, "ids": (1, 5)}, np.array([[0, 5]], np.uint8), "holds the class number 0; task.own has 1, 5"),
        ({"classes": 2}, np.array([[0.5]]), "holds numbers between whole ones; those of 'own' are whole"),
        ({"classes": 2}, np.array([[np.nan]]), "holds numbers between whole ones"),
        ({"classes": 2}, np.zeros((2, 2, 3)), "holds float64 [2, 2, 3]; expected whole numbers [H, W]"),
        (
            {"kind": "mask"},
            np.array([[0, 1, 255]], np.uint8),
            "holds the values 1, 255 besides 0; a mask has 0 and one",
        ),
        ({"kind": "regression"}, np.zeros((2, 2, 3)), "expected numbers [H, W]"),
        ({"kind": "regression"}, np.array([["a"]]), "expected numbers [H, W]"),
        ({"kind": "depth", "scale": 1.0}, np.array([[-1.0]]), "holds a negative depth (-1); say what is no label by"),
        ({"kind": "depth"}, np.array([[1000]]), "no unit: set --config.task.own.scale=0.001 or 1"),
        ({"kind": "normals"}, np.zeros((2, 2)), "expected numbers [H, W, 3]"),
    ],
)
def test_what_the_declaration_does_not_know_is_one_line(said, array, line, tmp_path):
    path = save(tmp_path / "a.npy", array)
    with pytest.raises(DataError) as error:
        form(**({"kind": "classes"} | said)).read(path)
    assert line in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_masks(tmp_path):
    values = np.array([[0, 7, 7], [0, 0, 255]], np.uint8)
    path = save(tmp_path / "a.png", values)
    assert form(kind="mask", ignore=255).read(path).tolist() == [[0, 1, 1], [0, 0, 255]]
    in_colour = save(tmp_path / "b.png", np.repeat((values > 0)[..., None] * np.uint8(255), 3, axis=2))
    assert form(kind="mask").read(in_colour).tolist() == [[0, 1, 1], [0, 0, 1]]
    assert form(kind="mask").read(save(tmp_path / "c.npy", values == 7)).tolist() == [[0, 1, 1], [0, 0, 0]]


def test_numbers_keep_zero_and_255(tmp_path):
    path = save(tmp_path / "a.npy", np.array([[0, -2.5, np.nan], [np.inf, 255, -9]]))
    read = form(kind="regression", ignore=-9).read(path)
    assert read.dtype == np.float32
    assert (read == 255).tolist() == [[False, False, True], [True, False, True]]
    assert read[0, :2].tolist() == [0, -2.5]
    assert read[1, 1] == pytest.approx(255, abs=1e-4)
    grey = save(tmp_path / "b.png", np.array([[0, 51, 255]], np.uint8))
    assert form(kind="regression", scale=1 / 255).read(grey).tolist() == pytest.approx(np.array([[0, 0.2, 1]]))


def test_depth_and_normals(tmp_path):
    metres = save(tmp_path / "a.npy", np.array([[0, 2.5, np.nan, 99]], np.float32))
    assert form(kind="depth", ignore=(0, 99)).read(metres).tolist() == [[0, 2.5, 0, 0]]
    png = save(tmp_path / "b.png", np.array([[0, 1500]], np.uint16))
    assert form(kind="depth").read(png).tolist() == pytest.approx(np.array([[0, 1.5]]))
    assert form(kind="depth", scale=0.01).read(png).tolist() == pytest.approx(np.array([[0, 15]]))
    vectors = save(tmp_path / "c.npy", np.array([[[0, 0, 2.0], [0, 0, 0]]]))
    assert form(kind="normals").read(vectors).tolist() == [[[0, 0, 1], [0, 0, 0]]]


def test_a_folder_of_declared_tasks(tmp_path):
    write_folder(tmp_path)
    declared = {
        "garments": form("garments", kind="classes", classes=3),
        "parts": form("parts", kind="classes", classes=3, colours=COLOURS, folder="body-parts"),
        "heat": form("heat", kind="regression"),
    }
    source = FolderSource(tmp_path, "train", tuple(declared), declared=declared)
    example = source[2]
    assert set(example) == {"image", "id", *declared}
    assert {name: example[name].dtype.name for name in declared} == {
        "garments": "uint8",
        "parts": "uint8",
        "heat": "float32",
    }
    (tmp_path / "train" / "heat" / "p1.png").unlink()
    with pytest.raises(DataError, match=r"image 'p1' has no heat label: .*heat/p1.npy or .*heat/p1.png is missing"):
        FolderSource(tmp_path, "train", ("heat",), declared=declared)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"'p0' and 5 more has no none label: .*empty holds no .npy or .png file at all"
    ):
        FolderSource(tmp_path, "train", ("none",), declared={"none": form("none", kind="mask", folder="empty")})
    with pytest.raises(
        DataError, match=r"garmnets is missing \(needed for 'garmnets', .*folder. Did you mean 'garments'"
    ):
        FolderSource(tmp_path, "train", ("garmnets",), declared={"garmnets": form("garmnets", kind="mask")})


def test_what_a_warp_brings_in_has_no_label():
    """In declared tasks, whatever `pad_ignore` says; built-in ones keep what published numbers contain."""
    said = {"c": {"kind": "classes", "classes": 2}, "m": {"kind": "mask"}, "h": {"kind": "regression"}}
    specs = [declared_task(name, values).label_spec for name, values in said.items()]
    ones = np.ones((20, 20), np.uint8)
    example = {"image": np.zeros((20, 20, 3), np.uint8), "c": ones, "m": ones, "h": ones.astype(np.float32)}
    for options in (Augmentation(), Augmentation(fast_warp=True)):
        labels = transform(example, specs, (20, 20), Draw(scale=0.5), options)["labels"]
        for label in labels.values():
            assert set(np.unique(label)) == {1, 255}
            assert label[0, 0] == 255
            assert label[10, 10] == 1


# What the doctor makes of folders that no task reads.


@pytest.mark.parametrize(
    ("folder", "files", "declaration"),
    [
        (
            "a",
            [np.array([[0, 1, 3, 255]], np.uint8)],
            {"kind": "classes", "classes": "background,class_1,class_2,class_3"},
        ),
        (
            "a",
            [np.array([[1, 2, 3]], np.uint8)],
            {"kind": "classes", "classes": "class_0,class_1,class_2", "ids": "1,2,3"},
        ),
        ("a", [np.array([[0, 128, 255]], np.uint8)], {"kind": "classes", "ids": "0,128,255"}),
        ("a", [np.array([[-1, 0, 1]])], {"kind": "classes", "classes": "background,class_1", "ignore": "-1"}),
        ("a", [np.arange(40, dtype=np.uint8)[None], np.array([[80]], np.uint8)], {"kind": "classes", "classes": "81"}),
        ("a", [np.array([[0, 255]], np.uint8), np.array([[0]], np.uint8)], {"kind": "mask"}),
        ("a", [np.array([[0, 1, 255]], np.uint8)], {"kind": "mask", "ignore": "255"}),
        ("a", [np.arange(200, dtype=np.uint8)[None]], {"kind": "regression", "scale": repr(1 / 255)}),
        ("a", [np.linspace(0, 0.9, 50)[None]], {"kind": "regression"}),
        ("a", [np.linspace(-300, 350, 50)[None]], {"kind": "regression", "scale": "0.001"}),
        ("my_depth", [np.linspace(0, 9, 50)[None]], {"kind": "depth"}),
        ("my_depth", [np.arange(4000, dtype=np.uint16)[None] * 2], {"kind": "depth"}),
        ("a", [np.repeat([[[0, 0, 1.0]]], 3, axis=1)], {"kind": "normals"}),
        ("a", [np.array([[[0, 0, 0], [255, 0, 9]]], np.uint8)], {"kind": "classes", "colours": "#000000,#ff0009"}),
        ("a", [np.zeros((2, 2), np.uint8)], {}),
        ("a", [np.zeros((2, 2, 5))], {}),
    ],
)
def test_proposals(folder, files, declaration, tmp_path):
    save(tmp_path / "images" / "0.png", np.zeros((2, 2, 3), np.uint8))
    for number, array in enumerate(files):
        is_image = array.dtype in (np.uint8, np.uint16)
        save(tmp_path / folder / f"{number}.{'png' if is_image else 'npy'}", array)
    [proposal] = propose(tmp_path, ())
    found = {key: ",".join(map(str, v)) if isinstance(v, tuple) else str(v) for key, v in proposal.declaration.items()}
    assert found.items() >= declaration.items()
    assert set(found) - set(declaration) <= {"classes"}
    if proposal.declaration:  # what is proposed reads what was found
        label = form(folder, **proposal.declaration)
        for path in (tmp_path / folder).iterdir():
            assert label.read(path).size


def run(capsys, *arguments):
    code = cli.execute(main, [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_doctor_takes_what_it_proposes(tmp_path, capsys):
    write_folder(tmp_path, size=(24, 32))
    code, out, err = run(capsys, "doctor", "folder", "--root", tmp_path, "--val-fraction", 0.3)
    assert (code, err) == (1, "")
    assert "garments    classes: 6 of 6 images have one; 8-bit images: the values 0 1 2 255" in out
    assert out.splitlines()[-1].endswith("or declare what is there (task.NAME.kind)")
    pasted = shlex.split(" ".join(line.rstrip("\\") for line in out.splitlines() if line.startswith("  --config")))
    assert "--config.tasks=body_parts+garments+heat" in pasted
    assert "--config.task.body_parts.folder=body-parts" in pasted
    code, out, _ = run(capsys, "doctor", "folder", "--root", tmp_path, "--val-fraction", 0.3, *pasted)
    assert code == cli.OK
    assert out.splitlines()[-1] == "verdict: ready for training on body_parts+garments+heat"
    more = [
        "--config.task.garments.classes=background,shirt,trousers,hat",
        "--config.task.body_parts.classes=4",
        "--config.task.body_parts.colours=#000000,#ff0000,#00ff00,#123456",
    ]
    code, out, _ = run(capsys, "doctor", "folder", "--root", tmp_path, "--val-fraction", 0.3, *pasted, *more)
    assert code == cli.OK
    assert "  garments: in none of the files that were read: hat (3)\n" in out
    assert "  body_parts: in none of the files that were read: class 3 (#123456)\n" in out
    few = "--config.task.garments.classes=background,shirt"
    code, out, _ = run(capsys, "doctor", "folder", "--root", tmp_path, "--val-fraction", 0.3, *pasted, few)
    assert code == 1
    assert "holds the class number 2; task.garments has 0..1 (2 classes), and 255 is no label" in out
    target = tmp_path / "example.png"
    options = ("--val-fraction", 0.3, "--out", target, "--size", 32, "--draws", 1)
    assert run(capsys, "show", "folder", "--root", tmp_path, *options, *pasted)[0] == cli.OK
    assert target.stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "override", "line"),
    [
        ("folder", "--config.batch_size=3", "--config.batch_size: of a configuration it takes tasks, task and data"),
        ("pascal", "--config.task.sal.loss_weight=3", "--config.task.sal.loss_weight: only 'folder' takes fields here"),
        ("folder", "--config.task.heat.kind=heat", "config: task.heat.kind: unknown name 'heat'"),
    ],
)
def test_other_fields_are_refused(name, override, line, tmp_path, capsys):
    code, _, err = run(capsys, "doctor", name, "--root", tmp_path, override)
    assert code == cli.USER_ERROR
    assert line in err
