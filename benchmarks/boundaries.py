"""The scores of `edge` on BSDS500 beside the published ones: of contour maps in its repository, and of people.

git clone --depth 1 https://github.com/BIDS/BSDS500
python benchmarks/boundaries.py --root=BSDS500/BSDS500                # about six minutes of one core
python benchmarks/boundaries.py --root=BSDS500/BSDS500 --every=10     # one image of ten

The folder `ucm2/test` holds the contours that Arbelaez et al. found, and `ucm2/test_eval` what the authors' own program
says of them: at the best threshold for all, at the best of each image, and image by image. People are scored as that
paper does it, each against the others who drew the same image.
"""

import argparse
import pathlib
import sys

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.report import markdown
from ditask_jax.data.benchmarks.bsds import read_outlines
from ditask_jax.data.image_files import read_mat
from ditask_jax.labels import unpack_annotators
from ditask_jax.tasks.annotated_edge import AnnotatedEdges, f_measure
from ditask_jax.tasks.edge_matching import match_annotators

HUMAN_F = 0.80  # Arbelaez et al. 2011, table 1


def main(argv: list[str] | None = None) -> int:
    """Scores the maps; prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, type=pathlib.Path, help="the folder BSDS500 of the clone")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take one image of N (default 1: all)")
    args = parser.parse_args(argv)
    evaluation = args.root / "ucm2/test_eval"
    files = sorted((args.root / "ucm2/test").glob("*.mat"))
    published = np.loadtxt(evaluation / "eval_bdry_img.txt")[:: args.every, 4]
    _, _, _, published_ods, _, _, published_ois, _ = np.loadtxt(evaluation / "eval_bdry.txt")
    task, total, found, people = AnnotatedEdges(), None, [], np.zeros(4)
    for file in files[:: args.every]:
        label = read_outlines(args.root / "data/groundTruth/test" / file.name)
        # Of the doubled contour map, the rows and columns that fall on pixels.
        contours = read_mat(file, "ucm2")[2::2, 2::2].astype(np.float32)
        sums = task.host_sums(contours[None], label[None])
        total = task.accumulate(total, sums)
        found.append(float(f_measure(*sums["best"][0])))
        people += people_against_each_other(label)
    scores, differences = task.finalize(total), np.abs(np.array(found) - published)
    rows = [
        ["contours, mean F of the images", f"{np.mean(found):.4f}", f"{published.mean():.4f}"],
        ["people", f"{f_measure(*people):.4f}", f"{HUMAN_F:.2f}"],
    ]
    if args.every == 1:
        rows[:0] = [
            ["contours, ODS", f"{scores['odsF']:.4f}", f"{published_ods:.4f}"],
            ["contours, OIS", f"{scores['oisF']:.4f}", f"{published_ois:.4f}"],
        ]
    print(markdown(["scored", "here", "published"], rows))
    print(f"\nimage by image: F differs by {differences.mean():.4f} on average, by {differences.max():.4f} at most")
    return 0


def people_against_each_other(label: np.ndarray) -> np.ndarray:
    """Right, predicted, matched and actual pixels of every annotator of an image, scored against the others."""
    masks, known = unpack_annotators(label)
    counts = np.zeros(4)
    for one in range(len(masks)):
        others = np.delete(masks, one, axis=0)
        right, predicted, matched, actual = match_annotators(masks[one].astype(np.float32), others, known)
        counts += [right[0], predicted[0], matched[0], actual]
    return counts


if __name__ == "__main__":
    sys.exit(main())
