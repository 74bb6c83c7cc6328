"""A training step under settings of glibc's allocator, which only the environment of a process can choose.

python benchmarks/allocator.py --config=configs/pascal_swin_tiny.py --batch-size=1

One process per setting, started together and stepping in turns. `plain` is as it comes; `huge pages` advises the kernel
to use them; `kept` also never gives memory back, as launch/quickstart.sh sets it; `one arena` has all threads share
that memory: in spite of `kept`, large blocks that another thread asks for are mapped anew. Linux with glibc 2.35 or
later.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.report import markdown
from benchmarks.timing import in_turns, median, ratio

HUGE = "glibc.malloc.hugetlb=1"
KEPT = f"{HUGE}:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000"
SETTINGS = {
    "plain": None,
    "huge pages": HUGE,
    "kept": KEPT,
    "one arena": f"{KEPT}:glibc.malloc.arena_max=1",
}


def main(argv: list[str] | None = None) -> int:
    """Steps all processes in turns; prints medians and the ratios to `plain` within rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/smoke.py", help="configuration, with an optional :VARIANT")
    parser.add_argument("--batch-size", type=int, default=1, help="batch size (default 1)")
    parser.add_argument("--rounds", type=int, default=8, help="times that each process steps (default 8)")
    parser.add_argument("--step", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.step:
        return step_when_asked(args.config, args.batch_size)
    processes = {name: _start(setting, args) for name, setting in SETTINGS.items()}
    times = {name: {"wall": [], "cpu": [], "peak": []} for name in processes}
    for _ in range(args.rounds):
        for name, process in processes.items():
            process.stdin.write("step\n")
            process.stdin.flush()
            for kind, word in zip(times[name], process.stdout.readline().split(), strict=True):
                times[name][kind].append(float(word))
    for process in processes.values():
        process.communicate()
    rows = []
    for name, found in times.items():
        medians = median(found), median(found, "cpu")
        ratios = ratio(times, name, "plain"), ratio(times, name, "plain", "cpu")
        rows.append([name, *(f"{figure:.2f}" for figure in (*medians, *ratios, max(found["peak"])))])
    print(markdown(["setting", "s", "CPU s", "over plain", "in CPU s", "peak GB"], rows))
    return 0


def _start(setting: str | None, args: argparse.Namespace) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {} if setting is None else {"GLIBC_TUNABLES": setting}
    command = [sys.executable, __file__, "--step", f"--config={args.config}", f"--batch-size={args.batch_size}"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
    if process.stdout.readline().strip() != "ready":
        raise SystemExit(f"allocator: the process of '{setting}' did not start; its message stands above")
    return process


def step_when_asked(config: str, batch: int) -> int:
    """Compiles, says so, and for every line read makes a step and prints seconds, CPU seconds and the peak in GB."""
    from benchmarks.ours import Ours
    from ditask_jax.config import load_config

    run, _ = Ours(load_config(config, [f"batch_size={batch}"])).train_step()
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        times = in_turns({"step": run}, rounds=1, warm=0)["step"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(*times["wall"], *times["cpu"], peak, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
