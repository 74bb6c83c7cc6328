"""`python -m ditask_jax.tune`: which learning rates the groups of a configuration's parameters should have."""

import contextlib
import shlex
from pathlib import Path

from ditask_jax import cli


def main(argv: list[str]) -> int:
    """Finds factors on the learning rate by short trainings, scored on a part of the training split."""
    parser = cli.Parser(
        "ditask_jax.tune",
        "Finds factors on the learning rates of adapters, pretrained weights and decoders: short trainings, of which "
        "the better third goes on for three times as long, scored on a part of the training split that is kept aside; "
        "the evaluation split is never read. Run again, it does what is missing.",
        [
            "--config=configs/scenes.py --workdir=runs/tune_scenes --steps=90",
            "--config=configs/scenes.py --config.method.name=lora --workdir=runs/tune_lora --jobs=2",
            "--config=configs/scenes.py --workdir=runs/tune --factors=adapters=1,10,100 --factors=decoders=1",
        ],
    )
    parser.add_path("--workdir", required=True, metavar="DIR", help="folder of the trainings and of what is found")
    note = "steps of the longest trainings; the others take a third and a ninth of that (default: 150)"
    parser.add_option("--steps", type=int, default=150, metavar="N", help=note)
    note = "factors to try for a group, for example adapters=1,10,100; may be given once for each"
    parser.add_option("--factors", action="append", default=[], metavar="GROUP=LIST", help=note)
    note = "share of the training split that is kept aside and scored (default: 0.2)"
    parser.add_option("--aside", type=float, default=0.2, metavar="SHARE", help=note)
    note = "trainings at a time (default: one per GPU, or one)"
    parser.add_option("--jobs", type=int, metavar="N", help=note)
    parser.add_option("--list", action="store_true", help="print what would be tried; train nothing")
    args = parser.parse(argv)

    from ditask_jax.errors import ConfigError
    from ditask_jax.sweeps.loading import check_folders, check_jobs
    from ditask_jax.sweeps.tuning import KEPT, Tuning, grid_of, name_of

    if args.steps < KEPT:
        raise ConfigError(f"command line: --steps: got {args.steps}, expected at least {KEPT}")
    if not 0 < args.aside < 1:
        raise ConfigError(f"command line: --aside: got {args.aside:g}, expected a number in (0, 1)")
    grid = grid_of(args.config, args.factors)
    tuning = Tuning(args.config, args.config_source, args.overrides, Path(args.workdir), grid, args.steps, args.aside)
    candidates, rungs = tuning.candidates(), tuning.rungs()
    print(
        f"{len(candidates)} candidates, trained for {', '.join(map(str, rungs))} steps; "
        f"as configured: {name_of(tuning.present)}",
        flush=True,
    )
    first = tuning.jobs(candidates, rungs[0])
    if args.list:
        print("\n".join(job.name for job in first))
        return cli.OK
    check_folders(first)
    check_jobs(first)
    return _search(tuning, args.jobs, shlex.join(["python", "-m", "ditask_jax.tune", *argv]))


def _search(tuning, jobs: int | None, again: str) -> int:
    import os

    from ditask_jax.sweeps.running import FAILED, Outcome, Runner, find_cores, find_devices, make_shares
    from ditask_jax.sweeps.sweep_results import FOLDER, duration
    from ditask_jax.sweeps.tuning import search, table, write
    from ditask_jax.training.experiment import build_tasks

    runner, found = Runner(make_shares(jobs, find_devices(os.environ), find_cores())), []
    with contextlib.closing(search(tuning, runner)) as steps:
        for event in steps:
            if isinstance(event, Outcome):
                tail = f": {event.message}" if event.state == FAILED else ""
                print(f"{event.job.name}: {event.state} after {duration(event.seconds)}{tail}", flush=True)
                continue
            found.append(event)
            print(f"\n{table([event], build_tasks(tuning.config))}\n", flush=True)
    failed = bool(found) and not found[-1][1][0].scores
    if runner.stopping or (len(found) < len(tuning.rungs()) and not failed):
        print(f"stopped; run the same command to resume: {again}", flush=True)
        return cli.PREEMPTED
    if failed:
        print("every training failed; lower the factors (--factors) or optimizer.learning_rate", flush=True)
        return cli.BUG
    files = write(tuning, found, tuning.workdir / FOLDER)
    best = found[-1][1][0]
    print("\n".join(f"wrote {file}" for file in files))
    print(f"best: {tuning.override(best.factors)}")
    return cli.OK


if __name__ == "__main__":
    cli.run(main, unheard=True)
