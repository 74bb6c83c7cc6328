"""`python -m ditask_jax.evaluate`: repeats the evaluation of a run from its newest checkpoint."""

from ditask_jax import cli


def main(argv: list[str]) -> int:
    """Restores a run, scores the whole validation split and prints the table."""
    parser = cli.Parser(
        "ditask_jax.evaluate",
        "Evaluates the newest checkpoint of a run over the whole validation split.",
        ["--workdir=runs/scenes", "--workdir=runs/pascal --resolution=original"],
        config=None,
    )
    parser.add_path("--workdir", required=True, metavar="DIR", help="folder of the run")
    note = "network or original: against labels resized to the network, or at their own size (default: as trained)"
    parser.add_option("--resolution", choices=["network", "original"], metavar="WHICH", help=note)
    args = parser.parse(argv)

    from ditask_jax.training import distributed

    distributed.start()
    from ditask_jax.errors import CheckpointError, optional
    from ditask_jax.reports.model_card import write_model_card
    from ditask_jax.training.checkpoints import Checkpointer
    from ditask_jax.training.run_folder import RunDir
    from ditask_jax.training.trainer import Trainer

    run = RunDir(args.workdir)
    config, file = run.load_config(), run.evaluation
    if args.resolution not in (None, config.eval_resolution):
        # A file of its own: evaluation.json stays what the run was trained to report.
        file = file.with_name(f"evaluation_{args.resolution}.json")
        with config.unlocked():
            config.eval_resolution = args.resolution
    with run.scoring():
        trainer = Trainer(config)
        with Checkpointer(run.checkpoints, read_only=True) as checkpointer:
            step = trainer.restore(checkpointer)
            for rejected, reason in checkpointer.rejected if distributed.is_first() else ():
                print(f"passed over the checkpoint of step {rejected}: {reason}")
        if not step:
            raise CheckpointError(f"workdir: '{run.path}' holds no checkpoint yet; train first")
        if distributed.is_first():
            print(f"step {step} of {trainer.total_steps}")
        trainer.report(run, trainer.evaluate(), file, say=print)
        if distributed.is_first() and file == run.evaluation:
            with optional(f"model card of {run.path}"):
                print(f"model card: {write_model_card(run.path)}")
        distributed.wait_for_all()
    return cli.OK


if __name__ == "__main__":
    cli.run(main, compiles=True)
