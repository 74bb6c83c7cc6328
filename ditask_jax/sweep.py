"""`python -m ditask_jax.sweep`: trains every point of a sweep file; run again, it does what is missing."""

import argparse
import contextlib
import shlex
from pathlib import Path

from ditask_jax import cli


def main(argv: list[str]) -> int:
    """Checks every configuration, then trains the points that are not finished."""
    args = _parser().parse(argv)

    from ditask_jax.sweeps import sweep_results
    from ditask_jax.sweeps.loading import choose, load_sweep, make_jobs
    from ditask_jax.sweeps.running import FINISHED, state_of
    from ditask_jax.sweeps.searching import make_space

    sweep, workdir = load_sweep(args.sweep), Path(args.workdir)
    if args.pick:
        jobs = [_picked(sweep, workdir, args.overrides)]
    else:
        jobs = choose(make_jobs(sweep, workdir, args.overrides), args.only)
    same = [args.sweep, f"--workdir={args.workdir}", *(f"--config.{override}" for override in args.overrides)]
    if args.wandb is not None:
        return _write_wandb(sweep, make_space(jobs), same, Path(args.wandb))
    states = {job.name: state_of(job) for job in jobs}
    if args.list:
        print(sweep_results.listing(jobs, states))
        return cli.OK
    waiting = [job for job in jobs if states[job.name] != FINISHED]
    # Imported where it is needed: JAX and the model code come with it.
    from ditask_jax.sweeps.loading import check_folders, check_jobs

    check_folders(jobs)
    check_jobs(waiting, data=args.slurm is None)
    if args.slurm is not None:
        return _submit(waiting, workdir, same, args)
    return _train(sweep, jobs, states, workdir, args, shlex.join(["python", "-m", "ditask_jax.sweep", *argv]))


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "ditask_jax.sweep",
        "Trains every point of a sweep, so many at a time, each in a folder of its own; finished points are left alone "
        "and unfinished ones go on. Overrides such as --config.data.root=DIR hold for all points.",
        [
            "configs/sweeps/smoke.py --workdir=runs/sweep_smoke --jobs=2",
            "configs/sweeps/smoke.py --workdir=runs/sweep_smoke --list",
            "configs/sweeps/paper_grid.py --workdir=runs/grid --only='*dropout0.05*' --config.data.root=prepared",
            "configs/sweeps/paper_grid.py --workdir=runs/grid --optuna=60 --config.data.root=prepared",
            "configs/sweeps/paper_grid.py --workdir=runs/grid --slurm='--partition=gpu --gpus=1 --time=24:00:00'",
        ],
        config="overrides",
    )
    note = "sweep of the package by name, or Python file with get_sweep(); with an optional :VARIANT"
    parser.add_option("sweep", metavar="FILE", help=note)
    parser.add_path("--workdir", required=True, metavar="DIR", help="folder of the run folders")
    note = "trainings at a time (default: one per GPU, or one); each gets its share of the cores or GPUs"
    parser.add_option("--jobs", type=int, metavar="N", help=note)
    parser.add_option("--list", action="store_true", help="print the points and how far they are; train nothing")
    note = "only points whose names match, '*' standing for anything; may be given several times"
    parser.add_option("--only", action="append", default=[], metavar="PATTERN", help=note)
    note = "only the point whose values are those of the overrides, for example --config.seed=1"
    parser.add_option("--pick", action="store_true", help=note)
    note = "let optuna choose points, until its study has N trials (needs the package optuna)"
    parser.add_option("--optuna", type=int, metavar="N", help=note)
    note = "write a SLURM array with a task per point, and submit it where there is sbatch; OPTIONS are passed on to it"
    parser.add_option("--slurm", nargs="?", const="", metavar="OPTIONS", help=note)
    note = "write a Weights & Biases sweep of the same points to FILE (YAML); train nothing"
    parser.add_path("--wandb", metavar="FILE", help=note)
    return parser


def _picked(sweep, workdir: Path, overrides: tuple[str, ...]):
    """The one point that overrides of swept fields name; other overrides change it as ever."""
    from ditask_jax.sweeps.loading import make_jobs
    from ditask_jax.sweeps.searching import axes_of, make_space

    axes, _ = axes_of(sweep.points)
    chosen = dict(override.split("=", 1) for override in overrides if override.split("=", 1)[0] in axes)
    rest = [override for override in overrides if override.split("=", 1)[0] not in axes]
    return make_space(make_jobs(sweep, workdir, rest)).job(chosen)


def _write_wandb(sweep, space, same: list[str], file: Path) -> int:
    from ditask_jax.files import atomic_write_text
    from ditask_jax.sweeps.searching import wandb_file

    print(f"wrote {atomic_write_text(file, wandb_file(sweep, space, same))}; next: wandb sweep {file}")
    return cli.OK


def _submit(waiting: list, workdir: Path, same: list[str], args: argparse.Namespace) -> int:
    from ditask_jax.sweeps.slurm_array import submit, write_script

    if not waiting:
        print("every point is finished")
        return cli.OK
    script = write_script(waiting, workdir, same, args.slurm, args.jobs)
    print(f"wrote {script}: {len(waiting)} tasks")
    answer = submit(script)
    print(answer if answer else f"no sbatch on this machine; on the cluster: sbatch {script}")
    return cli.OK


def _train(sweep, jobs: list, states: dict[str, str], workdir: Path, args: argparse.Namespace, again: str) -> int:
    import os

    from ditask_jax.sweeps import sweep_results
    from ditask_jax.sweeps.running import (
        BUSY,
        FAILED,
        FINISHED,
        Runner,
        find_cores,
        find_devices,
        make_shares,
        state_of,
    )
    from ditask_jax.sweeps.searching import Search, make_space
    from ditask_jax.sweeps.sweep_results import FOLDER, write_results

    shares = make_shares(args.jobs, find_devices(os.environ), find_cores())
    waiting = [job for job in jobs if states[job.name] != FINISHED]
    search = None if args.optuna is None else Search(sweep, make_space(jobs), workdir, args.optuna)
    print(sweep_results.plan_line(states, shares), flush=True)
    count = len(waiting) if search is None else min(args.optuna, len(waiting))
    tally = sweep_results.Tally(len(jobs), len(jobs) - len(waiting), count, len(shares), sweep.metric)
    runner = Runner(shares)
    with contextlib.ExitStack() as stack:
        if search is not None:
            stack.enter_context(contextlib.closing(search))
        # Closed whatever happens: no training outlives its sweep.
        outcomes = runner.run(waiting if search is None else search.jobs())
        for outcome in stack.enter_context(contextlib.closing(outcomes)):
            if search is not None:
                search.add(outcome)
            print(tally.add(outcome), flush=True)
    # Parts of a sweep may run in several places at once: the table of all points is made by the whole command alone.
    if not (runner.stopping or args.pick or args.only):
        text, files = write_results(sweep, jobs, {job.name: state_of(job) for job in jobs}, workdir / FOLDER)
        print("\n".join([text, *([search.summary()] if search else []), *(f"wrote {file}" for file in files)]))
    if closing := tally.closing(again, runner.stopping):
        print(closing, flush=True)
    if tally.of(FAILED):
        return cli.BUG
    return cli.PREEMPTED if runner.stopping or tally.of(BUSY) else cli.OK


if __name__ == "__main__":
    cli.run(main, unheard=True)
