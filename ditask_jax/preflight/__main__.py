"""`python -m ditask_jax.preflight`: tries a training before it is paid for; every launch script runs it first."""

from ditask_jax import cli


def main(argv: list[str]) -> int:
    """Runs every check, a line each; 0 if all passed, 2 if one failed."""
    parser = cli.Parser(
        "ditask_jax.preflight",
        "Checks versions, devices, folder, weights and data, then compiles and runs one step, saves and restores.\n"
        "Exit code 0: all passed; 2: a check failed, and its line says what to do.",
        [
            "--config=configs/smoke.py",
            "--config=configs/pascal_swin_tiny.py --workdir=runs/pascal --config.data.root=prepared",
        ],
    )
    parser.add_path("--workdir", metavar="DIR", help="folder of the run that will follow")
    note = "examples to read per split, beside checking that every file is there (default 16)"
    parser.add_option("--samples", type=int, default=16, metavar="N", help=note)
    args = parser.parse(argv)

    from pathlib import Path

    from ditask_jax.errors import ConfigError
    from ditask_jax.preflight.preflight_checks import Setting
    from ditask_jax.preflight.trial import preflight
    from ditask_jax.training import distributed

    if args.samples < 1:
        raise ConfigError(f"command line: --samples: got {args.samples}, expected at least 1")
    cluster = distributed.start()
    workdir = None if args.workdir is None else Path(args.workdir)
    where = f"process {cluster.index}: " if cluster else ""
    failed = preflight(
        Setting(args.config, cluster, workdir, args.samples), lambda line: print(where + line, flush=True)
    )
    if failed:
        print(f"{where}preflight: failed: {' '.join(failed)}", flush=True)
        if "devices" not in failed:
            distributed.wait_for_all()  # so that every process has said what it found
        return cli.USER_ERROR
    if not cluster or cluster.index == 0:
        print(f"{where}preflight: all passed", flush=True)
    return cli.OK


if __name__ == "__main__":
    cli.run(main, compiles=True)
