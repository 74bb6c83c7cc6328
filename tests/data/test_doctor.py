"""`python -m ditask_jax.data doctor` and `build` from outside: what they print and how they leave."""

import subprocess
import sys

import numpy as np
import pytest

from ditask_jax import cli
from ditask_jax.data.__main__ import COMMANDS, main
from ditask_jax.data.prepared.prepared_source import verify
from ditask_jax.data.statistics import ImageStatistics, LabelStatistics
from tests.data import miniature


@pytest.fixture
def pascal(tmp_path):
    written = miniature.write_pascal(tmp_path / "tree", train=4, val=2)
    return tmp_path / "tree", list(written["train"])


def run(capsys, *arguments):
    code = cli.execute(main, [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_healthy_tree(pascal, capsys):
    root, _ = pascal
    code, out, err = run(capsys, "doctor", "pascal", "--root", root)
    assert code == cli.OK
    assert err == ""
    for line in (
        f"pascal (pascal_mt) in {root}",
        "  train: 4 examples; 4998 were published",
        "  val: 2 examples; 5105 were published",
        "6 examples decoded:",
        "verdict: ready for training on semseg+human_parts+sal+normals; also usable: edge",
    ):
        assert line in out.splitlines()
    assert "48x64 (height x width)" in out
    assert "not seen: 2 3 4 5 6 7 8 9 10 11 13 14 16 17 18 19" in out
    assert "length 0.99 to 1.01" in out


@pytest.mark.parametrize(
    ("name", "write", "options", "expected"),
    [
        ("nyud", miniature.write_nyud, {"millimetres": True}, ["depth is in millimetres: the largest value", "9.9 m"]),
        ("nyud", lambda root: miniature.write_nyud(root, "atrc"), {}, ["the package is 'atrc'", "39: "]),
        ("cityscapes", miniature.write_cityscapes, {}, ["256 px", "ready for training on semseg+depth"]),
        ("cityscapes", miniature.write_mtan, {}, ["(mtan)", "(inverse)"]),
        ("ccp", miniature.write_ccp, {}, ["train: 4 examples; 803 were", "training on semseg+human_parts+sal+edge"]),
        ("bsds", miniature.write_bsds, {}, ["drawn by 4 to 6 annotators", "300 were published", "training on edge"]),
        ("camvid", miniature.write_camvid, {}, ["not seen: 2 3 5 6 7 9", "ignored: ", "training on semseg+edge"]),
    ],
)
def test_other_data_sets(name, write, options, expected, tmp_path, capsys):
    write(tmp_path, **options)
    code, out, _ = run(capsys, "doctor", name, "--root", tmp_path)
    assert code == cli.OK
    for text in expected:
        assert text in out


def test_missing_files_are_named_with_their_archive(pascal, capsys):
    root, names = pascal
    (root / f"sal_distill/{names[2]}.png").unlink()
    for path in (root / "pascal-context/trainval").iterdir():
        path.unlink()
    code, out, _ = run(capsys, "doctor", "pascal", "--root", root, "--samples", 1)
    assert code == 1
    assert "missing: train sal: 1 file of PASCAL_MT.tgz (the plain PASCAL-Context download is not enough):" in out
    assert f"  {root}/sal_distill/{names[2]}.png\n" in out
    assert "missing: train normals edge: 4 files of PASCAL_MT.tgz" in out
    assert out.splitlines()[-1].startswith(
        "verdict: training on semseg+human_parts+sal+normals would fail: 7 bad files"
    )
    code, out, _ = run(capsys, "doctor", "pascal", "--root", root, "--tasks", "semseg+human_parts")
    assert code == cli.OK
    assert "missing:" not in out
    assert out.splitlines()[-1] == "verdict: ready for training on semseg+human_parts"


def test_labels_that_are_not_needed_do_not_fail(tmp_path, capsys):
    miniature.write_nyud(tmp_path, tasks=("semseg", "depth", "normals"))
    code, out, _ = run(capsys, "doctor", "nyud", "--root", tmp_path)
    assert code == cli.OK
    assert "missing: train edge: 4 files" in out
    assert out.splitlines()[-1] == "verdict: ready for training on semseg+depth+normals; not usable: edge"
    assert run(capsys, "doctor", "nyud", "--root", tmp_path, "--tasks", "edge")[0] == 1


def test_broken_files_are_named_and_do_not_hide_each_other(pascal, capsys):
    root, names = pascal
    (root / f"semseg/VOC12/{names[0]}.png").write_bytes(b"")
    miniature.write_palette_png(root / f"semseg/VOC12/{names[1]}.png", np.full((48, 64), 77, np.uint8))
    (root / f"human_parts/{names[0]}.mat").write_text("html")
    (root / f"JPEGImages/{names[3]}.jpg").write_bytes(b"\xff\xd8")
    code, out, _ = run(capsys, "doctor", "pascal", "--root", root)
    assert code == 1
    assert f"broken: train semseg:\n  {root}/semseg/VOC12/{names[0]}.png is not an image file" in out
    assert f"{names[1]}.png holds class id 77; allowed are 0..20 and 255" in out
    assert f"broken: train human_parts:\n  {root}/human_parts/{names[0]}.mat cannot be read as a .mat file" in out
    assert f"broken: train image:\n  {root}/JPEGImages/{names[3]}.jpg" in out
    assert "would fail: 4 bad files" in out


def test_all_examples_are_decoded_and_every_bad_file_named_when_asked(tmp_path, capsys):
    written = miniature.write_pascal(tmp_path, train=9, val=1, tasks=("sal",))
    for name in list(written["train"])[1:8]:
        (tmp_path / f"sal_distill/{name}.png").write_bytes(b"")
    arguments = ("doctor", "pascal", "--root", tmp_path, "--tasks", "sal")
    code, out, _ = run(capsys, *arguments, "--samples", 2)
    assert code == cli.OK  # the first and the last are whole
    assert "3 examples decoded" in out
    code, out, _ = run(capsys, *arguments)
    assert code == 1
    assert "  ... and 2 more; --all names each" in out
    code, out, _ = run(capsys, *arguments, "--all")
    assert code == 1
    assert all(name in out for name in list(written["train"])[1:8])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "ImageSets/Context/val.txt").write_text(""), "the val split in"),
        (lambda root: (root / "ImageSets/Context/train.txt").unlink(), "train.txt is missing; it comes with PASCAL_MT"),
    ],
)
def test_lists_that_cannot_be_used(damage, message, pascal, capsys):
    root, _ = pascal
    damage(root)
    code, out, _ = run(capsys, "doctor", "pascal", "--root", root)
    assert code == 1
    assert message in out
    assert "would fail" in out


def test_a_leak_between_the_splits_is_said(pascal, capsys):
    root, names = pascal
    with (root / "ImageSets/Context/val.txt").open("a") as file:
        file.write(f"{names[1]}\n")
    code, out, _ = run(capsys, "doctor", "pascal", "--root", root)
    assert code == cli.OK
    assert f"train and val share 1 of their examples, for example '{names[1]}'" in out


def test_no_tree_at_all(tmp_path, capsys):
    code, out, _ = run(capsys, "doctor", "nyud", "--root", tmp_path / "nowhere")
    assert code == 1
    assert "nowhere is not a folder; unpack NYUD_MT.tgz" in out


def test_a_folder_of_ones_own(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for k in range(3):
            miniature.write_png(tmp_path / split / f"images/{k}.png", miniature.smooth_image(rng, (16, 24)))
            miniature.write_grey_png(tmp_path / split / f"semseg/{k}.png", miniature.blobs(rng, (16, 24), (0, 2)))
    arguments = ("doctor", "folder", "--root", tmp_path, "--semseg-classes")
    code, out, _ = run(capsys, *arguments, 3)
    assert code == cli.OK
    assert "  train: 3 examples\n" in out
    assert out.splitlines()[-1] == "verdict: ready for training on semseg"
    code, out, _ = run(capsys, *arguments, 2)
    assert code == 1
    assert "holds class id 2; allowed are 0..1" in out
    (tmp_path / "val/semseg/1.png").unlink()
    code, out, _ = run(capsys, *arguments, 3)
    assert code == 1
    assert "image '1' has no semseg label" in out


def test_build_then_doctor_the_prepared_set(pascal, tmp_path, capsys):
    root, _ = pascal
    out_folder = tmp_path / "prepared"
    build = ("build", "pascal", "--root", root, "--out", out_folder, "--tasks", "semseg+normals")
    code, out, _ = run(capsys, *build)
    assert code == cli.OK
    assert "train: 4 examples (4998 as published)\nval: 2 examples (5105 as published)\n" in out
    assert f"train with data.root={out_folder}" in out
    code, out, _ = run(capsys, *build)
    assert code == cli.OK
    assert "prepared already: every hash and count is right" in out
    code, out, _ = run(capsys, "doctor", "pascal", "--root", out_folder)
    assert code == cli.OK
    assert "every hash and count is as it was prepared" in out
    assert out.splitlines()[-1] == "verdict: ready for training on semseg+normals"
    shard = next(out_folder.rglob("*train*array_record*"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 255
    shard.write_bytes(content)
    code, out, _ = run(capsys, "doctor", "pascal", "--root", out_folder)
    assert code == 1
    assert f"{shard} differs from what was prepared" in out
    code, out, _ = run(capsys, "doctor", "pascal", "--root", out_folder, "--tasks", "sal")
    assert code == 1


def test_build_with_bad_files(pascal, tmp_path, capsys):
    root, names = pascal
    (root / f"JPEGImages/{names[0]}.jpg").write_bytes(b"")
    build = ("build", "pascal", "--root", root, "--out", tmp_path / "prepared")
    code, out, err = run(capsys, *build)
    assert code == cli.USER_ERROR
    assert err.count("\n") == 1
    assert f"{names[0]}.jpg is not an image file" in err
    assert not (tmp_path / "prepared").exists()
    code, out, _ = run(capsys, *build, "--skip-bad")
    assert code == cli.OK
    assert "train: 3 examples (4998 as published), 1 left out (listed in prepared.json)" in out
    verify(tmp_path / "prepared/pascal_mt/1.0.0")
    code, out, _ = run(capsys, "doctor", "pascal", "--root", tmp_path / "prepared")
    assert code == cli.OK
    assert "1 examples of train were left out when it was prepared" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["docter"], "command line: 'docter': unknown command. Did you mean 'doctor'? Known: doctor build show"),
        (["doctor"], "the following arguments are required: NAME"),
        (["doctor", "pascal"], "command line: --root: missing"),
        (["doctor", "pasca", "--root=x"], "unknown name 'pasca'. Did you mean 'pascal'?"),
        (["doctor", "pascal", "--root=x", "--sample=3"], "--sample: unknown option. Did you mean '--samples'?"),
        (["doctor", "pascal", "--root=x", "--samples=0"], "--samples: got 0, expected at least 1"),
        (["doctor", "pascal", "--root={root}", "--tasks=semsge"], "unknown name 'semsge'. Did you mean 'semseg'?"),
        (["doctor", "pascal", "--root={root}", "--tasks=sal+sal"], "expected different names joined by +"),
        (["doctor", "pascal", "--root={root}", "--depth-unit=feet"], "pascal: depth_unit: got 'feet'"),
        (["build", "pascal", "--root={root}"], "command line: --out: missing"),
        (["build", "pascal", "--out=x"], "command line: --root: missing; give the folder that the archives of pascal"),
        (["build", "vtab", "--out=x"], "command line: --task: missing; name one of the 19 tasks"),
        (["build", "folder", "--root=x", "--out=y"], "unknown name 'folder'"),
    ],
)
def test_misuse_is_one_line_and_exit_code_two(arguments, message, pascal, capsys):
    root, _ = pascal
    code, _, err = run(capsys, *(argument.format(root=root) for argument in arguments))
    assert code == cli.USER_ERROR
    assert len(err.strip().splitlines()) == 1
    assert message in err


def test_no_arguments_show_the_commands(capsys):
    code, out, _ = run(capsys)
    assert code == cli.USER_ERROR
    assert all(name in out for name in COMMANDS)


def test_help_loads_nothing_that_takes_seconds():
    code = (
        "import sys\nfrom ditask_jax.data.__main__ import main\nmain(['--help'])\n"
        "try:\n main(['doctor', '--help'])\nexcept SystemExit: pass\n"
        "print(*sorted({'jax', 'tensorflow', 'tensorflow_datasets', 'grain', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
    assert "examples:" in done.stdout


def test_preparing_and_reading_never_load_jax_or_tensorflow(pascal, tmp_path):
    root, _ = pascal
    code = (
        "import sys\nfrom ditask_jax.data.__main__ import main\n"
        f"main(['build', 'pascal', '--root', {str(root)!r}, '--out', {str(tmp_path / 'out')!r}])\n"
        f"assert main(['doctor', 'pascal', '--root', {str(tmp_path / 'out')!r}]) == 0\n"
        "print(*sorted({'jax', 'flax', 'tensorflow', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""


def test_statistics_of_labels():
    depth = LabelStatistics(unit="m")
    depth.add(np.array([[0, 2.5], [10, 0]], np.float32))
    assert depth.text() == "2.5 to 10 m, 50.0 % labelled"
    normals = LabelStatistics()
    normals.add(np.array([[[0, 0, 0], [0, 0, 2]]], np.float32))
    assert normals.text() == "length 2.00 to 2.00, mean direction (+0.00 +0.00 +1.00), 50.0 % labelled"
    many = LabelStatistics(12)
    many.add(np.arange(10, dtype=np.uint8)[None])
    assert many.text().startswith("classes 0: 10.0 %, 1: 10.0 %")
    assert many.text().endswith("2 more: 20.0 %; not seen: 10 11")
    for empty in (LabelStatistics(3), ImageStatistics()):
        assert empty.text() == "nothing read"
    nothing = LabelStatistics(unit="m")
    nothing.add(np.zeros((2, 2), np.float32))
    assert nothing.text() == "nothing labelled"


def own_folder(root, task, labels, ending="png"):
    """Two images of 16x24 in each split, with these labels."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for k, label in enumerate(labels):
            miniature.write_png(root / split / f"images/{k}.png", miniature.smooth_image(rng, (16, 24)))
            (root / split / task).mkdir(parents=True, exist_ok=True)
            if ending == "npy":
                np.save(root / split / task / f"{k}.npy", label)
            else:
                miniature.write_grey_png(root / split / task / f"{k}.png", label)
    return ("doctor", "folder", "--root", root)


HALF = np.repeat([0, 1], 192).reshape(16, 24).astype(np.uint8)


def test_maps_of_0_and_255_alone_are_doubted(tmp_path, capsys):
    doctor = own_folder(tmp_path, "semseg", [HALF * 255, HALF[::-1] * 255])
    for classes in ((), ("--semseg-classes", 2)):
        code, out, _ = run(capsys, *doctor, *classes)
        assert code == 1
        assert "broken: semseg:\n  the maps hold one class and 255 alone" in out
        assert "set --config.data.mask_ignore=false --config.data.semseg_classes=2" in out
        assert out.splitlines()[-1] == "verdict: training on semseg would fail"
    code, out, _ = run(capsys, *doctor, "--semseg-classes", 2, "--mask-ignore", "false")
    assert code == cli.OK
    assert "classes 0: 50.0 %, 1: 50.0 %" in out
    code, out, _ = run(capsys, *doctor, "--semseg-classes", 2, "--mask-ignore", "true")
    assert code == cli.OK
    assert "ignored: 50.0 %" in out


def test_masks_of_0_and_255_are_ready_unless_255_is_to_be_ignored(tmp_path, capsys):
    doctor = own_folder(tmp_path, "sal", [HALF * 255, HALF[::-1] * 255])
    assert run(capsys, *doctor)[0] == cli.OK
    code, out, _ = run(capsys, *doctor, "--mask-ignore=true")
    assert code == 1
    assert "the masks hold one value and 255 alone" in out
    miniature.write_grey_png(tmp_path / "train/sal/0.png", np.where(HALF, np.uint8([1, 255] * 12), np.uint8(0)))
    code, out, _ = run(capsys, *doctor)
    assert code == 1
    assert "holds the values [1, 255]; a mask has 0 and one other value; set mask_ignore if 255 means ignore" in out
    assert run(capsys, *doctor, "--mask-ignore=true")[0] == cli.OK


def test_files_that_are_passed_over_are_said(tmp_path, capsys):
    doctor = own_folder(tmp_path, "sal", [HALF, HALF])
    assert "passed over" not in run(capsys, *doctor)[1]
    for name in ("x.heic", "y.gif", ".z.gif"):
        (tmp_path / "train/images" / name).write_bytes(b"")
    code, out, _ = run(capsys, *doctor)
    assert code == cli.OK
    assert "  train: passed over for their endings: 2 files in images, for example 'x.heic'\n" in out


def test_labels_that_say_nothing_are_doubted(tmp_path, capsys):
    doctor = own_folder(tmp_path / "a", "semseg", [np.full((16, 24), 255, np.uint8)])
    code, out, _ = run(capsys, *doctor, "--semseg-classes", 3)
    assert code == 1
    assert "no pixel of those read has a label" in out
    code, out, _ = run(capsys, *own_folder(tmp_path / "b", "depth", [np.full((16, 24), np.nan)], "npy"))
    assert code == 1
    assert "no pixel of those read has a label" in out
    own_folder(tmp_path / "c", "segmentation", [HALF])
    code, out, _ = run(capsys, "doctor", "folder", "--root", tmp_path / "c")
    assert code == 1
    assert "holds no labels; make one of its folders semseg human_parts sal" in out


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_depth_in_whole_numbers_needs_a_unit(dtype, tmp_path, capsys):
    depth = (1500 + np.arange(384).reshape(16, 24)).astype(dtype)
    doctor = own_folder(tmp_path, "depth", [depth, depth + 1], "npy")
    code, out, _ = run(capsys, *doctor)
    assert code == 1
    assert "--config.data.depth_unit=millimetres or metres (doctor, show: --depth-unit)" in out
    code, out, _ = run(capsys, *doctor, "--depth-unit", "millimetres")
    assert code == cli.OK
    assert "1.5 to 1.884 m" in out
    assert run(capsys, *doctor, "--depth-unit", "metres")[0] == cli.OK
    code, _, err = run(capsys, *doctor, "--depth-unit", "pixels")
    assert code == cli.USER_ERROR
    assert "unknown name 'pixels'" in err


def test_pictures_in_folders_below_are_asked_about(tmp_path, capsys):
    doctor = own_folder(tmp_path, "sal", [HALF, HALF])
    for name in ("images", "sal"):
        (tmp_path / "train" / name / "sub").mkdir()
        (tmp_path / "train" / name / "0.png").rename(tmp_path / "train" / name / "sub/x.png")
    code, out, _ = run(capsys, *doctor)
    assert code == 1
    assert "images/sub holds images below" in out
    assert "--config.data.subfolders=true (doctor, show: --subfolders true)" in out
    code, out, _ = run(capsys, *doctor, "--subfolders=true")
    assert code == cli.OK
    assert "train: 2 examples" in out
    code, out, _ = run(capsys, *doctor, "--subfolders=false")
    assert code == cli.OK
    assert "train: 1 example\n" in out
    code, _, err = run(capsys, *doctor, "--subfolders=maybe")
    assert code == cli.USER_ERROR
    assert "--subfolders: got 'maybe', expected true or false" in err


def test_a_name_of_two_lines_takes_one(tmp_path, capsys):
    doctor = own_folder(tmp_path, "sal", [HALF, HALF])
    for name in ("images", "sal"):
        (tmp_path / "train" / name / "0.png").rename(tmp_path / "train" / name / "a\nb.png")
    (tmp_path / "train/images/a\nb.png").write_bytes(b"")
    code, out, _ = run(capsys, *doctor)
    assert code == 1
    assert "images/a\\nb.png is not an image file" in out


def test_files_that_cannot_be_read_are_named_by_doctor_too(tmp_path, capsys):
    doctor = own_folder(tmp_path, "depth", [np.ones((16, 24)) / 3] * 6, "npy")
    depth, images = tmp_path / "train/depth", tmp_path / "train/images"
    (depth / "0.npy").write_bytes(b"")
    (depth / "1.npy").write_text("hello")
    np.save(depth / "2.npy", np.full((16, 24), "x"))
    miniature.write_grey_png(images / "3.png", np.full((16, 24), 300, np.uint16))
    (images / "4.png").unlink()
    (images / "4.png").mkdir()
    code, out, err = run(capsys, *doctor)
    assert (code, err) == (1, "")
    for text in ("0.npy cannot be read", "1.npy cannot be read", "2.npy holds <U1", "3.png holds values", "4.png is a"):
        assert text in out
    assert "would fail: 5 bad files (data.on_bad_file=skip passes over bad examples)" in out
