"""The comparison with the scores in BSDS500's repository, on a miniature of it."""

import numpy as np
import pytest

from benchmarks import boundaries
from ditask_jax.labels import pack_annotators
from tests.data import miniature


def test_people_who_agree_score_one_and_strangers_nothing():
    line = np.zeros((40, 60), bool)
    line[20, 5:50] = True
    right, predicted, matched, actual = boundaries.people_against_each_other(pack_annotators([line, line, line]))
    assert right == predicted == 3 * 45
    assert matched == actual == 3 * 2 * 45
    other = np.roll(line, 15, axis=0)
    right, predicted, matched, actual = boundaries.people_against_each_other(pack_annotators([line, other]))
    assert (right, predicted, matched, actual) == (0, 90, 0, 90)


def test_the_table_has_the_published_scores_beside_ours(tmp_path, capsys):
    written = miniature.write_bsds(tmp_path)
    for name, example in written["val"].items():
        doubled = np.zeros((82, 114))
        doubled[2::2, 2::2] = example["edge"] & 1
        miniature.write_mat(tmp_path / f"ucm2/test/{name}.mat", "ucm2", doubled)
    folder = tmp_path / "ucm2/test_eval"
    folder.mkdir()
    (folder / "eval_bdry.txt").write_text("0.13 0.7 0.7 0.7263 0.77 0.75 0.7595 0.72\n")
    (folder / "eval_bdry_img.txt").write_text("1 0.1 0.8 0.9 0.25\n2 0.1 0.6 0.6 0.5\n")
    assert boundaries.main(["--root", str(tmp_path)]) == 0
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    rows = {row[0]: row[1:] for row in table if len(row) == 3}
    assert rows["contours, ODS"][1] == "0.7263"
    assert rows["contours, OIS"][1] == "0.7595"
    assert rows["contours, mean F of the images"][1] == "0.3750"
    assert float(rows["contours, OIS"][0]) >= float(rows["contours, ODS"][0]) > 0
    # A tenth of the pixels, at random: three others hit 27 % of them, and a tenth is hit of what each of them drew.
    assert float(rows["people"][0]) == pytest.approx(0.15, abs=0.03)
    assert boundaries.main(["--root", str(tmp_path), "--every", "2"]) == 0
    assert "ODS" not in capsys.readouterr().out
