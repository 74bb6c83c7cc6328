"""`python -m ditask_jax.pretrain`: makes the embedded weights, a small Swin classifier of scenes."""

import dataclasses

from ditask_jax import cli
from ditask_jax.errors import ConfigError
from ditask_jax.files import cut_name, locked, user_path


def main(argv: list[str]) -> int:
    """Pre-trains a backbone on scenes classification and writes its weights."""
    parser = cli.Parser(
        "ditask_jax.pretrain",
        "Pre-trains a small Swin on scenes classification and writes its weights as safetensors.",
        ["--out=runs/start.safetensors", "--out=runs/try.safetensors --steps=50"],
        config=None,
    )
    parser.add_path("--out", required=True, metavar="FILE", help="file to write")
    parser.add_option("--backbone", default="swin_nano_patch2_window6", help="backbone to train")
    parser.add_option("--steps", type=int, default=None, help="optimiser steps")
    parser.add_option("--batch-size", type=int, default=None, help="images per step")
    parser.add_option("--seed", type=int, default=0, help="of weights and images")
    args = parser.parse(argv)
    for name, value in (("--steps", args.steps), ("--batch-size", args.batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"command line: {name}: got {value}, expected a positive number")

    # Imported late, so that --help needs no JAX.
    import numpy as np

    from ditask_jax.scenes.pretraining import PretrainSettings, pretrain
    from ditask_jax.weights import write_weights

    chosen = {name: getattr(args, name) for name in ("backbone", "steps", "batch_size", "seed")}
    settings = PretrainSettings(**{name: value for name, value in chosen.items() if value is not None})
    out = user_path(args.out)
    if out.is_dir():
        raise ConfigError(f"command line: --out: '{out}' is a folder; give a file name in it")
    with locked(out.with_name(f".{cut_name(out.name, 200)}.lock"), "--out", "pre-training", "use another --out"):
        arrays, scores = pretrain(settings)
        # Half precision halves the file; fine-tuning starts from the same rounded numbers everywhere.
        rounded = {name: array.astype(np.float16) for name, array in arrays.items()}
        described = {name: str(value) for name, value in dataclasses.asdict(settings).items()}
        described |= {"architecture": settings.backbone, "accuracy": f"{scores['accuracy']:.4f}"}
        write_weights(out, rounded, **described)
    print(f"wrote {args.out}")
    return cli.OK


if __name__ == "__main__":
    cli.run(main, unheard=True, compiles=True)
