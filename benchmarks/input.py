"""The input pipeline against its limit: examples per second of one core, over decoding and resizing the JPEG alone.

python benchmarks/input.py
python benchmarks/input.py --json input.json --rounds 30

An example is an image of 375x500 with four label maps (semantic segmentation, human parts, saliency, normals), read,
augmented and resized to 448x448 as for training. The limit is what OpenCV needs to decode that example's JPEG and to
resize it once (cubic). Both are measured in turns, in CPU seconds of the reading process (all its threads), so that
other programs disturb them alike; the ratio is the median over rounds.

Rows: `tree` reads the archives as they unpack, `prepared` what `python -m ditask_jax.data build` makes of them, each
with the published augmentation and with `data.fast_warp` (one bilinear warp); `batches` is `prepared` through
`train_batches`, which adds shuffling, stacking and a thread. `floor` is what the published augmentation cannot do
without: decoding the JPEG and, for image and normals in memory, one cubic warp and one cubic resize in float32;
`floor, 8 bit` is the same in uint8, which rounds and clips on the way.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from ditask_jax.files import json_text

TASKS = ("semseg", "human_parts", "sal", "normals")
SIZE = (448, 448)


def main() -> None:
    """Builds the data, measures in a fresh process, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--examples", type=int, default=24, help="different examples (default 24)")
    parser.add_argument("--rounds", type=int, default=12, help="times that each row is measured (default 12)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.add_argument("--measure", metavar="DIR", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json_text(measure(pathlib.Path(args.measure), args.rounds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        jpeg_bytes = build(pathlib.Path(folder), args.examples)
        command = [sys.executable, __file__, "--measure", folder, "--rounds", str(args.rounds)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1]) | {"jpeg_bytes": jpeg_bytes, "examples": args.examples}
    print(table(found))
    if args.json:
        pathlib.Path(args.json).write_text(json_text(found, indent=2) + "\n", encoding="utf-8")


def build(folder: pathlib.Path, examples: int) -> float:
    """Writes the tree and prepares it; returns the mean size of a JPEG."""
    from benchmarks.pascal_tree import write_tree
    from ditask_jax.data.prepared.preparing import Wish, prepare

    size = write_tree(folder / "tree", examples)
    prepare(Wish("pascal", TASKS), folder / "tree", folder / "prepared", say=lambda line: None)
    return size


def measure(folder: pathlib.Path, rounds: int) -> dict:
    """CPU milliseconds per example of every row, ratios to the limit, and the peak memory of this process."""
    import cv2
    import numpy as np

    from ditask_jax.data import open_source, train_batches
    from ditask_jax.data.augment import PRESETS, preset, sample, transform
    from ditask_jax.labels import LabelSpec
    from ditask_jax.shell import process_settings

    process_settings()  # as in every process of a command that reads
    specs = (
        LabelSpec("semseg", num_values=21),
        LabelSpec("human_parts", num_values=7, all_zero_is_missing=True),
        LabelSpec("sal", num_values=2),
        LabelSpec("normals", 3, "float32", "cubic", is_direction_field=True, zero_is_missing=True),
    )
    sources = {name: open_source("pascal", "train", TASKS, folder / name) for name in ("tree", "prepared")}
    pictures = sorted((folder / "tree" / "JPEGImages").glob("train_*.jpg"))
    rng = np.random.default_rng(0)

    def limit() -> None:
        for path in pictures:
            image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
            cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_CUBIC)

    def reading(name: str, augmentation) -> Callable[[], None]:
        def run() -> None:
            source = sources[name]
            for index in range(len(source)):
                transform(source[index], specs, SIZE, sample(augmentation, rng), augmentation)

        return run

    whole = PRESETS["pascal"]
    matrices = [cv2.getRotationMatrix2D((250, 187.5), angle, 1.1) for angle in (-17, -6, 9, 14)]

    def floor(dtype) -> Callable[[], None]:
        label = np.ascontiguousarray(sources["tree"][0]["normals"] * 127).astype(dtype)

        def run() -> None:
            for number, path in enumerate(pictures):
                image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
                for array in (image.astype(dtype, copy=False), label):
                    size = (array.shape[1], array.shape[0])
                    moved = cv2.warpAffine(array, matrices[number % 4], size, flags=cv2.INTER_CUBIC)
                    cv2.resize(moved, SIZE[::-1], interpolation=cv2.INTER_CUBIC)

        return run

    rows = {
        "limit": limit,
        "floor": floor(np.float32),
        "floor, 8 bit": floor(np.uint8),
        "tree": reading("tree", whole),
        "prepared": reading("prepared", whole),
        "tree, fast warp": reading("tree", preset("pascal", fast_warp=True)),
        "prepared, fast warp": reading("prepared", preset("pascal", fast_warp=True)),
    }
    spent: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(rounds + 1):
        for name, run in rows.items():
            begin = time.process_time()
            run()
            if number:  # the first round warms up
                spent[name].append(1e3 * (time.process_time() - begin) / len(pictures))
    # Threads prefetch while something else is measured, too: so this row comes last.
    limits = np.array(spent.pop("limit"))
    size = len(pictures)
    with train_batches(sources["prepared"], specs, SIZE, size, augmentation=whole, threads=1, prefetch=1) as stream:
        next(stream)
        begin = time.process_time()
        for _ in range(rounds):
            next(stream)
        spent["batches"] = [1e3 * (time.process_time() - begin) / size / rounds]
    found = {
        name: {
            "milliseconds": float(np.median(times)),
            "best_milliseconds": float(np.min(times)),
            "per_second_per_core": 1e3 / float(np.median(times)),
            "ratio": float(np.median(limits / np.array(times))),
        }
        for name, times in spent.items()
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    least = {"limit_milliseconds": float(np.median(limits)), "best_limit_milliseconds": float(limits.min())}
    return {**least, "rows": found, "peak_memory_mb": peak / 1024}


def table(found: dict) -> str:
    """The figures as aligned text."""
    limit, size = found["limit_milliseconds"], found["jpeg_bytes"] / 1e3
    best = found["best_limit_milliseconds"]
    lines = [
        f"limit: {limit:.2f} CPU ms (at best {best:.2f}) to decode and resize a JPEG of {size:.0f} kB",
        f"{'':22}{'CPU ms':>10}{'at best':>10}{'per s and core':>16}{'ratio':>8}{'of the best':>13}",
    ]
    for name, row in found["rows"].items():
        numbers = f"{row['milliseconds']:>10.2f}{row['best_milliseconds']:>10.2f}{row['per_second_per_core']:>16.0f}"
        numbers += f"{row['ratio']:>8.3f}{best / row['best_milliseconds']:>13.3f}"
        lines.append(f"{name:22}{numbers}")
    lines.append(f"peak memory of the reading process: {found['peak_memory_mb']:.0f} MB")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    main()
