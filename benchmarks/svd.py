"""Attaching DiTASK to a Swin: how long its decompositions take, and how long when they come from the cache.

python benchmarks/svd.py
python benchmarks/svd.py --models=swin_large_patch4_window7

Weights are random; the cache is a folder of its own that is removed again. The times are those of
`ditask_jax.adapters.wrap.wrap`: decompositions, the hash of the weights, and the adapters' first values. Each is taken
in a process of its own, as in a training that starts; those from the cache are medians of three.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.cpab import MODELS, TASKS, picture_side
from benchmarks.report import markdown
from benchmarks.timing import processor_seconds
from ditask_jax.files import json_text

CACHED_RUNS = 3


def main(argv: list[str] | None = None) -> int:
    """Measures every model; prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="names of Swins, joined by commas")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.add_argument("--attach", metavar="DIR", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.attach:
        print(json_text(attach(args.models, pathlib.Path(args.attach))))
        return 0
    found = {name: measure(name) for name in args.models.split(",")}
    rows = [[name, *(f"{seconds:.2f}" for seconds in entry.values())] for name, entry in found.items()]
    print(markdown(["model", "s", "CPU s", "cached, s", "cached, CPU s"], rows))
    if args.json:
        pathlib.Path(args.json).write_text(json_text(found, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(model: str) -> dict[str, float]:
    """Seconds by the clock and of the processor, of the first attachment and of one from the cache."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--models", model, "--attach", folder]
        runs = [subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True) for _ in range(1 + CACHED_RUNS)]
    first, *cached = (json.loads(run.stdout.splitlines()[-1]) for run in runs)
    medians = (statistics.median(column) for column in zip(*cached, strict=True))
    names = ("first_seconds", "first_cpu_seconds", "cached_seconds", "cached_cpu_seconds")
    return dict(zip(names, [*first, *medians], strict=True))


def attach(model: str, folder: pathlib.Path) -> tuple[float, float]:
    """Seconds by the clock and of the processor of one attachment in this process."""
    from ditask_jax import create_tasks
    from ditask_jax.adapters.methods.ditask import DiTASK
    from ditask_jax.adapters.wrap import wrap
    from ditask_jax.model import create_model

    plain = create_model(model, create_tasks(TASKS, dataset="pascal"), picture_side(model))
    clock, processor = time.perf_counter(), processor_seconds()
    wrap(plain, DiTASK(), cache_dir=folder)
    return time.perf_counter() - clock, processor_seconds() - processor


if __name__ == "__main__":
    sys.exit(main())
