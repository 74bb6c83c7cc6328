"""`python -m ditask_jax.export`: a trained model for other code bases, or as a program."""

from ditask_jax import cli


def main(argv: list[str]) -> int:
    """Restores a run, merges its adapters and writes one file."""
    parser = cli.Parser(
        "ditask_jax.export",
        "Writes the newest checkpoint of a run, adapters merged: weights under the names of timm, of the official code "
        "or of Hugging Face (tasks sharing one stream), everything (ditask), or a program, StableHLO or ONNX.",
        [
            "--workdir=runs/shared --layout=timm --out=swin.safetensors",
            "--workdir=runs/scenes --layout=ditask --out=scenes.safetensors",
            "--workdir=runs/scenes --program --out=scenes.stablehlo",
            "--workdir=runs/scenes --program=onnx --out=scenes.onnx",
        ],
        config=None,
    )
    parser.add_path("--workdir", required=True, metavar="DIR", help="folder of the run")
    parser.add_path("--out", required=True, metavar="FILE", help="the file to write")
    parser.add_option("--layout", metavar="NAME", help="timm, timm_qkvb (DINOv3), official, huggingface or ditask")
    note = "write a program in place of weights: stablehlo (the default), or onnx, which needs the package jax2onnx"
    parser.add_option("--program", nargs="?", const="stablehlo", metavar="KIND", help=note)
    note = "the weight file the run started from, where it has moved"
    parser.add_path("--weights", metavar="FILE", hub=True, help=note)
    note = "multiply LayerScale (DINOv2, DINOv3) into the layers behind it, for code that has none"
    parser.add_option("--fold-layer-scale", action="store_true", help=note)
    args = parser.parse(argv)

    from ditask_jax.conversion.weight_sources import PROGRAMS, check_program, output_path, printable
    from ditask_jax.errors import ConfigError, check_known, optional

    if (args.layout is None) == (args.program is None):
        raise ConfigError("export: give either --layout NAME or --program")
    if args.program is not None and args.fold_layer_scale:
        raise ConfigError("export: --fold-layer-scale is for --layout; a program computes the same without it")
    if args.program is not None:
        check_program(args.program)
    out = output_path(args.out, "export", PROGRAMS.get(args.program, ".safetensors"))

    from ditask_jax.conversion.exporting import EXPORTS, export_program, export_weights
    from ditask_jax.reports.model_card import write_model_card
    from ditask_jax.training.restore import restore_run

    if args.layout is not None:
        check_known("export: --layout", args.layout, EXPORTS)
    run = restore_run(args.workdir, args.weights)
    for step, reason in run.rejected:
        print(f"passed over the checkpoint of step {step}: {reason}")
    print(f"step {run.step}")
    model = run.experiment.model
    if args.program is not None:
        print(f"program: {printable(str(export_program(out, model, run.state, args.program)))}")
    else:
        print(export_weights(out, model, args.layout, run.state, args.weights, args.fold_layer_scale))
    with optional(f"model card of {printable(str(out))}"):
        print(f"model card: {printable(str(write_model_card(args.workdir, out, run.step)))}")
    return cli.OK


if __name__ == "__main__":
    cli.run(main, compiles=True)
