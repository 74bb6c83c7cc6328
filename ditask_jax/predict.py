"""`python -m ditask_jax.predict`: every task's prediction for a user's own images, as images and as raw files."""

import sys
from pathlib import Path

from ditask_jax import cli


def main(argv: list[str]) -> int:
    """Loads a trained model, predicts a file or a folder of files, and writes the results."""
    parser = cli.Parser(
        "ditask_jax.predict",
        "Predicts images of any size: per task a colour image and a raw file, and a panel of all tasks.",
        [
            "--workdir=runs/scenes --input=photo.jpg --out=predictions",
            "--workdir=runs/scenes --input=photos --out=predictions --tasks=semseg+depth --raw=png",
            "--workdir=runs/pascal --input=photos --out=predictions --tile --overlap=0.5",
            "--adapter=out/adapter --weights=swin_tiny.safetensors --dataset=pascal --input=photos --out=predictions",
        ],
        config=None,
    )
    parser.add_path("--workdir", metavar="DIR", help="folder of a training run")
    note = "folder of an adapter, or hf://OWNER/REPO[@REVISION][/FOLDER], in place of --workdir"
    parser.add_path("--adapter", metavar="DIR", hub=True, help=note)
    note = (
        "adapter: weights of its backbone, a file, hf://... or embedded; not needed where it was made on the latter two"
    )
    parser.add_path("--weights", metavar="FILE", hub=True, help=note)
    note = "adapter: data set that names its classes and the unit of depth (default: class 1, class 2 ...; metres)"
    parser.add_option("--dataset", metavar="NAME", help=note)
    parser.add_path("--input", required=True, metavar="PATH", help="an image, or a folder of images")
    parser.add_path("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_option("--tasks", metavar="A+B", help="run these tasks only, and no stream of the others (default: all)")
    note = "slide the network over the image at its own scale (default: resize it to the network's size)"
    parser.add_option("--tile", action="store_true", help=note)
    note = "least overlap of neighbouring tiles, as a fraction of a tile (default 0.25)"
    parser.add_option("--overlap", type=float, default=0.25, metavar="F", help=note)
    parser.add_option("--batch-size", type=int, default=8, metavar="N", help="images or tiles at a time (default 8)")
    note = "format of raw depth and normals: npy (float32, default) or png (16 bits)"
    parser.add_option("--raw", default="npy", metavar="FORMAT", help=note)
    parser.add_option("--no-panels", action="store_true", help="leave out the panels, which take most of the writing")
    note = "what to do about an image that cannot be read, predicted or written: skip it by name (default) or stop"
    parser.add_option("--on-bad-file", choices=["skip", "stop"], default="skip", metavar="WHAT", help=note)
    args = parser.parse(argv)

    from ditask_jax.errors import ConfigError, DataError
    from ditask_jax.files import LOCK_NAME, locked
    from ditask_jax.prediction.image_inputs import find_pictures
    from ditask_jax.prediction.outputs import check_format
    from ditask_jax.prediction.tiling import check_overlap

    if (args.workdir is None) == (args.adapter is None):
        raise ConfigError("predict: give either --workdir DIR or --adapter DIR")
    if args.adapter is None and (args.weights or args.dataset):
        raise ConfigError("predict: --weights and --dataset go with --adapter; a run knows its own")
    check_format(args.raw)
    check_overlap(args.overlap)
    files = find_pictures(args.input, results=args.out)

    from ditask_jax.data.commands.build import progress_bar
    from ditask_jax.prediction import Predictor
    from ditask_jax.prediction.image_inputs import one_picture, predicted, readable
    from ditask_jax.prediction.outputs import ResultFolder, check_folder

    check_folder(args.out)
    options = {"batch_size": args.batch_size, "tile": args.tile, "overlap": args.overlap}
    with locked(Path(args.out) / LOCK_NAME, "predict: --out", "prediction", "wait for it, or use another --out"):
        if args.workdir is not None:
            predictor = Predictor.from_run(args.workdir, args.tasks, **options)
        else:
            predictor = Predictor.from_adapter(args.adapter, args.weights, args.tasks, args.dataset, **options)
        results = ResultFolder(args.out, predictor, args.raw, panels=not args.no_panels)

        def broken(file, reason: str) -> None:
            if args.on_bad_file == "stop":
                raise DataError(reason)
            line = reason.replace("\n", "\\n")  # which a file's name may hold
            print(f"skipped: {line}", file=sys.stderr, flush=True)
            results.skip(file, reason)

        with progress_bar("predicting") as update:
            for file, image, prediction in predicted(predictor, readable(files, broken), args.batch_size, broken):
                with one_picture(file, broken):
                    results.add(file, image, prediction)
                update("images", sum(results.counts), len(files))
        done, skipped = results.counts
        if not done:
            raise DataError(f"predict: none of the {len(files)} files could be predicted; the reasons are above")
        description = results.finish()
    note = f", {skipped} skipped" if skipped else ""
    print(f"{predictor.source}: {done} of {len(files)} images{note}: {' '.join(task.name for task in predictor.tasks)}")
    print(f"results: {description.parent} (what is what: {description})")
    return cli.OK


if __name__ == "__main__":
    cli.run(main, compiles=True)
