"""`python -m ditask_jax.references`: single-task scores of a data set, the zero of delta_m."""

from pathlib import Path

from ditask_jax import cli


def main(argv: list[str]) -> int:
    """Trains every task of a configuration on its own and writes the scores as JSON."""
    parser = cli.Parser(
        "ditask_jax.references",
        "Trains each task of a configuration alone and writes the scores that delta_m is measured against. "
        "Finished runs in the folder are taken as they are, unfinished ones go on.",
        ["--config=configs/scenes.py:single --workdir=runs/references --out=references.json"],
    )
    parser.add_path("--workdir", required=True, metavar="DIR", help="folder of the runs, one below it per task")
    parser.add_path("--out", required=True, metavar="FILE", help="JSON file to write")
    args = parser.parse(argv)

    from ditask_jax.config import load_config
    from ditask_jax.errors import CheckpointError
    from ditask_jax.files import atomic_write_json, parse_json
    from ditask_jax.training.experiment import build_tasks
    from ditask_jax.training.run_folder import RunDir
    from ditask_jax.training.trainer import Trainer

    scores, steps = {}, None
    with RunDir(args.workdir).training("list of trainings"):
        for task in build_tasks(args.config):
            overrides = (*args.overrides, f"tasks={task.name}")
            config = load_config(args.config_source, overrides, say=lambda line: None)  # said already
            run = RunDir(Path(args.workdir) / task.name)
            run.check(config)
            if not run.evaluation.is_file():
                trainer = Trainer(run.recorded(config))
                trainer.fit(run.path)
                if trainer.stopped:
                    return cli.PREEMPTED
                trainer.report(run, trainer.evaluate())
            found = parse_json(run.evaluation.read_text(encoding="utf-8"))
            steps = found["step"]
            value = found["scores"][task.name].get(task.primary_metric)
            if value is None:
                raise CheckpointError(
                    f"references: '{run.path}': the {task.primary_metric} of {task.name} is unknown: nothing was "
                    "labelled, or predictions are not finite; look at its data and losses, or leave out the task"
                )
            scores[task.name] = {"metric": task.primary_metric, "value": value}
            print(f"{task.name}: {task.primary_metric} {value:.4f}", flush=True)
    source = (
        f"single-task full fine-tuning, {steps} steps, seed {args.config.seed}: python -m ditask_jax.references "
        f"--config={args.config_source} {' '.join(f'--config.{o}' for o in args.overrides)}".strip()
    )
    atomic_write_json(args.out, {"scores": scores, "source": source})
    print(f"wrote {args.out}")
    return cli.OK


if __name__ == "__main__":
    cli.run(main, unheard=True, compiles=True)
