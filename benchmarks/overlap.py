"""Loading beside computing: how much longer a step takes when its batches are read, augmented and placed meanwhile.

python benchmarks/overlap.py --config=configs/pascal_swin_tiny.py --batch-size=1,4
python benchmarks/overlap.py --config=configs/scenes.py

In turns, several steps each: steps on one batch that is on the device already, steps on batches that come as in
training (`train_batches`, prefetched by `ditask_jax.training.prefetch`), and the loader alone as fast as it can,
once the batches that it held ready are taken. Each row runs twice, and the second time counts, so that the fed steps
are in full swing. `waited` is what a fed step waits for its batch. PASCAL-Context's images are generated ones of the
same size in the same files, prepared by `python -m ditask_jax.data build`.
"""

import argparse
import contextlib
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.report import markdown
from benchmarks.timing import in_turns, median, ratio
from ditask_jax.files import json_text

EXAMPLES = 32
LOADED = 4  # batches that the loader reads for every step of the others


def main(argv: list[str] | None = None) -> int:
    """Measures every batch size; prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = lambda text: [int(part) for part in text.split(",")]
    parser.add_argument("--config", default="configs/smoke.py", help="configuration, with an optional :VARIANT")
    parser.add_argument("--batch-size", type=sizes, metavar="N,N", help="batch sizes (default: the configuration's)")
    parser.add_argument("--steps", type=int, default=8, help="steps of a measurement (default 8)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each row is measured (default 5)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    args = parser.parse_args(argv)
    from ditask_jax.config import load_config

    with tempfile.TemporaryDirectory() as folder:
        plain = load_config(args.config)
        data = [f"data.root={_pascal(pathlib.Path(folder))}"] if plain.data.name == "pascal" else []
        found = {}
        for batch in args.batch_size or [plain.batch_size]:
            config = load_config(args.config, [f"batch_size={batch}", *data])
            found[str(batch)] = measure(config, args.steps, args.rounds)
    header = ["batch", "step, s", "CPU s", "fed, s", "CPU s", "fed / step", "in CPU s", "waited, s", "images/s: loader",
              "fed steps"]  # fmt: skip
    rows = [[batch, *(f"{value:.3g}" for value in entry.values())] for batch, entry in found.items()]
    print(markdown(header, rows))
    if args.json:
        pathlib.Path(args.json).write_text(json_text(found, indent=2) + "\n", encoding="utf-8")
    return 0


def _pascal(folder: pathlib.Path) -> pathlib.Path:
    from benchmarks.input import build

    build(folder, EXAMPLES)
    return folder / "prepared"


def measure(config, steps: int, rounds: int) -> dict[str, float]:
    """Seconds of a step with and without loading, their ratio, and images per second of the loader and of the step."""
    import jax

    from benchmarks.ours import Ours
    from ditask_jax.training.prefetch import Prefetch

    ours = Ours(config)
    step, _ = ours.train_step()
    waited: list[float] = []
    ready = max(config.data.threads, 2) + 2  # what the loader may hold, and one that is under way

    with _batches(ours) as batches:
        place = lambda number: jax.device_put(next(batches))

        def drain() -> None:
            for _ in range(ready):
                next(batches)

        def fed() -> None:
            seconds = 0.0
            with Prefetch(place, 0, steps) as ahead:
                for _ in range(steps):
                    begin = time.perf_counter()
                    batch = next(ahead)
                    seconds += time.perf_counter() - begin
                    step(batch)
            waited.append(seconds / steps)

        rows = {
            "step": lambda: [step() for _ in range(steps)],
            "fed": fed,
            "drained": drain,
            "loader": lambda: [next(batches) for _ in range(LOADED * steps)],
        }
        times = in_turns(rows, rounds, settle=1)
    per_step = lambda row, clock="wall": median(times[row], clock) / steps
    return {
        "step_seconds": per_step("step"),
        "step_cpu_seconds": per_step("step", "cpu"),
        "fed_seconds": per_step("fed"),
        "fed_cpu_seconds": per_step("fed", "cpu"),
        "ratio": ratio(times, "fed", "step"),
        "cpu_ratio": ratio(times, "fed", "step", "cpu"),
        "waited_seconds": statistics.median(waited[3::2]),
        "loader_images_per_second": config.batch_size / (per_step("loader") / LOADED),
        "fed_images_per_second": config.batch_size / per_step("fed"),
    }


@contextlib.contextmanager
def _batches(ours) -> Iterator[Iterator[dict]]:
    from ditask_jax.data import train_batches
    from ditask_jax.training.experiment import build_augmentation, build_source

    config, specs = ours.config, [task.label_spec for task in ours.tasks]
    with train_batches(
        build_source(config, "train"),
        specs,
        config.image_size,
        config.batch_size,
        config.seed,
        build_augmentation(config),
        threads=config.data.threads,
        workers=config.data.workers,
    ) as batches:
        yield ({name: batch[name] for name in ("image", "labels", "valid")} for batch in batches)


if __name__ == "__main__":
    sys.exit(main())
