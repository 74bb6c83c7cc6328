"""`python -m ditask_jax.train`: trains a configuration in a folder; run again, it resumes."""

from ditask_jax import cli
from ditask_jax.errors import ConfigError, optional


def main(argv: list[str]) -> int:
    """Trains, evaluates and prints the table of scores."""
    parser = cli.Parser(
        "ditask_jax.train",
        "Trains a model, resuming what the folder already holds, and evaluates it.",
        [
            "--config=configs/scenes.py --workdir=runs/scenes",
            "--config=configs/scenes.py:frozen --workdir=runs/frozen --config.total_steps=200",
        ],
    )
    parser.add_path("--workdir", required=True, metavar="DIR", help="folder of the run")
    note = "trace these steps with JAX's profiler, both included, into DIR/profile"
    parser.add_option("--profile", metavar="START:STOP", help=note)
    args = parser.parse(argv)

    # Imported late, so that --help and mistakes on the command line need no JAX.
    from ditask_jax.training import distributed

    distributed.start()
    from ditask_jax.reports.model_card import write_model_card
    from ditask_jax.training.metrics_log import check_logging
    from ditask_jax.training.profiling import Window
    from ditask_jax.training.run_folder import RunDir
    from ditask_jax.training.trainer import Trainer

    profile = None if args.profile is None else Window.parse(args.profile)
    run = RunDir(args.workdir)
    if profile is not None and not str(run.profile).isprintable():
        raise ConfigError(f"command line: --profile: JAX's profiler cannot write into {str(run.path)!r}; rename it")
    # The folder is claimed by `fit`, once the configuration has proved to work: a mistake leaves nothing behind.
    run.check(args.config)
    check_logging(args.config)
    with run.training():
        trainer = Trainer(run.recorded(args.config))
        _read_first(trainer.train_source, trainer.eval_source)
        if distributed.is_first():
            print(_summary(trainer), flush=True)
        trainer.fit(run.path, profile)
        if trainer.stopped:
            return cli.PREEMPTED
        trainer.report(run, trainer.evaluate(), say=lambda line: print(line, flush=True))
        if distributed.is_first():
            with optional(f"model card of {run.path}"):
                print(f"model card: {write_model_card(run.path)}")
        distributed.wait_for_all()
    return cli.OK


def _read_first(*sources) -> None:
    """Reads an example of each: labels that do not fit the configuration are named before it owns a folder."""
    for source in sources:
        source[0]


def _summary(trainer) -> str:
    plan, config = trainer.experiment.plan, trainer.config
    peak = config.optimizer.learning_rate * config.batch_size / 512
    return (
        f"{plan.method} on {config.data.name} ({config.tasks}): "
        f"{plan.trainable_total:,} of {plan.total:,} parameters train, {plan.trainable_backbone:,} in the backbone; "
        f"{trainer.total_steps} steps of {config.batch_size} images, peak learning rate {peak:.3g}, "
        f"{trainer.mesh.devices.size} device(s)"
    )


if __name__ == "__main__":
    cli.run(main, unheard=True, compiles=True)
