"""The command: what it writes for pictures of all kinds, and what it says of mistakes."""

import json
import os
import types

import numpy as np
import pytest
from PIL import Image

from ditask_jax import cli, predict
from ditask_jax.adapters.storage import save_adapter
from ditask_jax.prediction import Predictor
from ditask_jax.tasks import tasks
from ditask_jax.training.restoring import restore_run
from tests.prediction.made_run import made_run
from tests.training.small import OPTIONS, two_stages

COLOURS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    with two_stages():
        yield made_run(tmp_path_factory.mktemp("runs") / "run", *OPTIONS)


@pytest.fixture
def photos(tmp_path):
    """A folder as people have them, with one broken file."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    image = Image.fromarray(COLOURS)
    image.save(folder / "plain.jpg")
    image.convert("RGBA").save(folder / "trip/see_through.png")
    image.convert("L").save(folder / "grey.png")
    Image.fromarray(COLOURS[..., 0].astype(np.uint16) << 8).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.png", exif=exif)
    (folder / "broken.jpg").write_bytes((folder / "plain.jpg").read_bytes()[:200])
    return folder


def size_of(path):
    """Height and width of a written picture."""
    with Image.open(path) as picture:
        return picture.height, picture.width


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_of_photographs(run_folder, photos, tmp_path, capsys):
    out = tmp_path / "out"
    code = cli.execute(predict.main, [f"--workdir={run_folder}", f"--input={photos}", f"--out={out}", "--batch-size=4"])
    captured = capsys.readouterr()
    assert code == cli.OK, captured.err
    assert "broken.jpg" in captured.err
    assert "5 of 6 pictures, 1 skipped: semseg depth" in captured.out
    names = ["deep.png", "grey.png", "plain.jpg", "trip/see_through.png", "turned.png"]
    expected = [f"{kind}/{task}/{name}.png" for kind in ("pictures", "raw") for task in ("semseg",) for name in names]
    expected += [f"pictures/depth/{name}.png" for name in names] + [f"raw/depth/{name}.npy" for name in names]
    expected += [f"panels/{name}.png" for name in names] + ["predictions.json"]
    assert files_below(out) == sorted(expected)
    description = json.loads((out / "predictions.json").read_text())
    assert description["how"] == "resized to 32x32, predictions resized back"
    assert description["tasks"]["depth"]["unit"] == "metres"
    assert description["tasks"]["semseg"]["classes"][0] == "background"
    assert [entry["file"].endswith("broken.jpg") for entry in description["skipped"]] == [True]
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in description["pictures"]}
    assert sizes == {name: (60, 40) if name == "turned.png" else (40, 60) for name in names}
    # Which files are of which picture, and no others.
    mapped = []
    for entry in description["pictures"]:
        outputs = entry["outputs"]
        mapped += [*outputs["raw"].values(), *outputs["pictures"].values(), outputs["panels"]]
    assert sorted(mapped) == [name for name in files_below(out) if name != "predictions.json"]
    by_file = {entry["file"]: entry["outputs"]["raw"]["depth"] for entry in description["pictures"]}
    assert by_file[str(photos / "trip/see_through.png")] == "raw/depth/trip/see_through.png.npy"
    for name, size in sizes.items():
        classes = Image.open(out / f"raw/semseg/{name}.png")
        assert np.asarray(classes).shape == size
        picture = np.asarray(Image.open(out / f"pictures/semseg/{name}.png"))
        assert np.array_equal(picture, np.asarray(classes.convert("RGB")))
        depth = np.load(out / f"raw/depth/{name}.npy")
        assert depth.shape == size
        assert depth.dtype == np.float32


@pytest.mark.slow
def test_tiles_from_an_adapter_with_one_task(run_folder, photos, tmp_path, capsys):
    run = restore_run(run_folder)
    save_adapter(tmp_path / "adapter", run.experiment.model, run.state)
    arguments = [f"--adapter={tmp_path / 'adapter'}", "--dataset=scenes", f"--input={photos / 'plain.jpg'}"]
    arguments += [f"--out={tmp_path / 'out'}", "--tasks=depth", "--tile", "--overlap=0.5", "--raw=png", "--no-panels"]
    assert cli.execute(predict.main, arguments) == cli.OK, capsys.readouterr().err
    assert files_below(tmp_path / "out") == [
        "pictures/depth/plain.jpg.png",
        "predictions.json",
        "raw/depth/plain.jpg.png",
    ]
    description = json.loads((tmp_path / "out/predictions.json").read_text())
    assert description["how"] == "tiles of 32x32, overlapping by at least 0.5 of a tile"
    assert list(description["tasks"]) == ["depth"]
    assert np.asarray(Image.open(tmp_path / "out/raw/depth/plain.jpg.png")).dtype == np.uint16


@pytest.mark.slow
def test_a_broken_file_can_stop(run_folder, photos, tmp_path, capsys):
    arguments = [f"--workdir={run_folder}", f"--input={photos}", f"--out={tmp_path / 'out'}", "--on-bad-file=stop"]
    assert cli.execute(predict.main, arguments) == cli.USER_ERROR
    error = capsys.readouterr().err.strip()
    assert "broken.jpg" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out/predictions.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--input --out: missing"),
        (["--input=x", "--out=y"], "give either --workdir DIR or --adapter DIR"),
        (["--input=x", "--out=y", "--workdir=a", "--adapter=b"], "give either --workdir DIR or --adapter DIR"),
        (["--input=x", "--out=y", "--workdir=a", "--weights=b"], "--weights and --dataset go with --adapter"),
        (["--input=nowhere", "--out=y", "--workdir=a"], "predict: no file or folder 'nowhere'"),
        (["--input=.", "--out=y", "--workdir=a", "--raw=npz"], "Did you mean 'npy'"),
        (["--input=.", "--out=y", "--workdir=a", "--overlap=2"], "overlap: got 2.0"),
        (["--input=.", "--out=y", "--workdr=a"], "Did you mean '--workdir'"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert cli.execute(predict.main, arguments) == cli.USER_ERROR
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_file_in_place_of_the_results(tmp_path, capsys):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    arguments = ["--workdir=nowhere", f"--input={tmp_path / 'a.png'}", f"--out={tmp_path / 'a.png'}"]
    assert cli.execute(predict.main, arguments) == cli.USER_ERROR
    assert "is a file; give a folder" in capsys.readouterr().err
    assert (tmp_path / "a.png").is_file()


@pytest.fixture
def without_a_model(monkeypatch):
    """Predictions of saliency without a network; `stop_after` pictures somebody presses Ctrl-C."""
    options = types.SimpleNamespace(stop_after=None)

    def stream(images):
        for number, image in enumerate(images):
            if number == options.stop_after:
                raise KeyboardInterrupt
            yield {"sal": np.ones(image.shape[:2], np.float32)}

    fake = types.SimpleNamespace(
        tasks=tasks("sal", dataset="scenes"),
        source="nothing",
        image_size=(8, 8),
        tile=False,
        overlap=0.25,
        stream=stream,
    )
    monkeypatch.setattr(Predictor, "from_run", lambda *_, **__: fake)
    return options


def test_interrupted_it_leaves_whole_files_only(without_a_model, photos, tmp_path, capsys):
    out = tmp_path / "out"
    command = [f"--workdir={tmp_path}", f"--input={photos}", f"--out={out}", "--no-panels"]
    without_a_model.stop_after = 2
    assert cli.execute(predict.main, command) == cli.INTERRUPTED
    shown = capsys.readouterr().err.strip().splitlines()
    assert shown[-1].startswith("interrupted; run the same command again")
    found = files_below(out)
    assert found == [f"{kind}/sal/{name}.png" for kind in ("pictures", "raw") for name in ("deep.png", "grey.png")]
    assert all(np.asarray(Image.open(out / name)).shape[:2] == (40, 60) for name in found)
    without_a_model.stop_after = None
    assert cli.execute(predict.main, command) == cli.OK
    assert len(files_below(out)) == 11
    # Interrupted again, there is no description of files that may be of another time.
    without_a_model.stop_after = 2
    assert cli.execute(predict.main, command) == cli.INTERRUPTED
    assert not (out / "predictions.json").exists()


def test_pictures_and_names_of_any_kind(without_a_model, tmp_path, capsys):
    folder = tmp_path / "a folder, ü"
    folder.mkdir()
    names = ["one pixel", "日本 $x_1$", "it's & more", os.fsdecode(b"latin\xff")]
    for name, size in zip(names, [(1, 1), (40, 60), (3, 900), (900, 3)], strict=True):
        with open(folder / f"{name}.png", "wb") as file:
            Image.fromarray(np.zeros((*size, 3), np.uint8)).save(file, "PNG")
    out = tmp_path / "out"
    code = cli.execute(predict.main, [f"--workdir={tmp_path}", f"--input={folder}", f"--out={out}"])
    assert code == cli.OK, capsys.readouterr().err
    description = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
    assert [entry["id"] for entry in description["pictures"]] == sorted(f"{name}.png" for name in names)
    for entry in description["pictures"]:
        assert size_of(out / "raw/sal" / f"{entry['id']}.png") == (entry["height"], entry["width"])
        assert max(size_of(out / "panels" / f"{entry['id']}.png")) < 2500


def test_long_names_and_names_alike_are_predicted_and_recorded(without_a_model, tmp_path, capsys):
    folder, out = tmp_path / "photos", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    long, wide = "x" * 240 + ".png", "\N{CJK UNIFIED IDEOGRAPH-65E5}" * 83 + ".png"
    names = ["a.jpg", "a.png", "sub/a.jpg", long, wide, "z.jpg"]
    for number, name in enumerate(names):
        Image.fromarray(np.full((4, 5 + number, 3), number, np.uint8)).save(folder / name)
    code = cli.execute(predict.main, [f"--workdir={tmp_path}", f"--input={folder}", f"--out={out}"])
    assert code == cli.OK, capsys.readouterr().err
    description = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
    assert description["skipped"] == []
    widths = {}
    for entry in description["pictures"]:
        outputs = entry["outputs"]
        assert size_of(out / outputs["raw"]["sal"]) == size_of(out / outputs["pictures"]["sal"])
        assert size_of(out / outputs["panels"])[1] < 2500
        widths[entry["file"]] = size_of(out / outputs["raw"]["sal"])[1]
    assert widths == {str(folder / name): 5 + number for number, name in enumerate(names)}
    assert len(files_below(out)) == 3 * len(names) + 1


def test_a_picture_that_fails_takes_no_other_along(without_a_model, tmp_path, capsys):
    """One whose prediction fails, in a batch, and one whose results cannot be written."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(np.full((4, 5, 3), number, np.uint8)).save(folder / f"{number}.png")
    (out / "raw/sal/3.png.png").mkdir(parents=True)
    (out / "raw/sal/3.png.png/mine.txt").write_text("kept")
    working = Predictor.from_run().stream

    def stream(images):
        images = list(images)
        if any(image[0, 0, 0] == 1 for image in images):
            raise MemoryError
        yield from working(images)

    Predictor.from_run().stream = stream
    command = [f"--workdir={tmp_path}", f"--input={folder}", f"--out={out}", "--no-panels", "--batch-size=4"]
    assert cli.execute(predict.main, command) == cli.OK
    shown = capsys.readouterr()
    assert "3 of 5 pictures, 2 skipped" in shown.out
    assert "1.png': MemoryError" in shown.err
    assert "3.png' cannot be written: Is a directory" in shown.err
    description = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
    assert [entry["id"] for entry in description["pictures"]] == ["0.png", "2.png", "4.png"]
    assert [entry["file"] for entry in description["skipped"]] == [str(folder / "1.png"), str(folder / "3.png")]
    assert not (out / "pictures/sal/3.png.png").exists()
    assert cli.execute(predict.main, [*command, "--on-bad-file=stop"]) == cli.USER_ERROR
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
