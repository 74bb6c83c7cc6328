"""docs/predict.md describes every kind of figure, and shows images that are there and small."""

import pathlib
import re

from PIL import Image

from ditask_jax.reports.drawing import KINDS

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "predict.md").read_text(encoding="utf-8")


def test_every_kind_of_figure_is_described():
    rows = re.findall(r"^\| `(\w+)` \| `", PAGE, flags=re.MULTILINE)
    assert set(KINDS) <= set(rows)


def test_examples_are_pictures_of_a_moderate_size():
    pictures = re.findall(r"!\[[^\]]+\]\((figures/[^)]+)\)", PAGE)
    assert len(pictures) >= 5
    for picture in pictures:
        assert (DOCS / picture).stat().st_size < 150_000
        with Image.open(DOCS / picture) as image:
            assert min(image.size) > 200
