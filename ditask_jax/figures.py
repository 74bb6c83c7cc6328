"""`python -m ditask_jax.figures`: panels, curves, spectra, spectral shift and sweeps of runs, as PNG and SVG."""

from ditask_jax import cli


def main(argv: list[str]) -> int:
    """Reads run folders and draws what can be drawn of them."""
    parser = cli.Parser(
        "ditask_jax.figures",
        "Draws runs: predictions beside ground truth on the same images, loss and score curves, singular values "
        "before and after with their velocity fields and maps, how far layers moved, and sweeps over options.",
        [
            "runs/scenes --out=figures",
            "runs/scenes runs/scenes_frozen --out=figures --examples=0,7,12",
            "runs/cells --out=figures --kinds=sweep,pareto --formats=svg",
        ],
        config=None,
    )
    note = "folder of a run, or of several; the first gives the data set"
    parser.add_path("runs", nargs="*", metavar="RUN", help=note)
    parser.add_path("--out", required=True, metavar="DIR", help="folder for the figures")
    kinds = "panels curves spectra spectral_shift sweep pareto"
    parser.add_option("--kinds", metavar="A,B", help=f"which of {kinds} (default: all that can be drawn)")
    note = "numbers of validation examples in the panels (default 0,1,2,3)"
    parser.add_option("--examples", default="0,1,2,3", metavar="K,L", help=note)
    note = "single-task run that delta_m is taken against, or a folder of them; once per run (default: the package's)"
    parser.add_path("--reference", action="append", default=[], metavar="RUN", help=note)
    parser.add_option("--formats", default="png,svg", metavar="A,B", help="png, svg or both (default)")
    args = parser.parse(argv)

    from ditask_jax.errors import ConfigError

    if not args.runs:
        raise ConfigError(f"command line: RUN: missing; name at least one run folder. See {parser.prog} --help")

    from ditask_jax.plots.sheet import FORMATS
    from ditask_jax.reports import find_runs
    from ditask_jax.reports.drawing import KINDS, draw_runs

    wanted = _words(args.kinds, "--kinds", KINDS) if args.kinds is not None else None
    formats = _words(args.formats, "--formats", FORMATS)
    examples = _numbers(args.examples)
    runs = find_runs(args.runs, evaluated=False)
    drawn, left_out = draw_runs(runs, args.out, wanted, examples, formats, find_runs(args.reference))
    for reason in left_out:
        print(f"not drawn: {reason}")
    if not drawn:
        raise ConfigError("figures: nothing could be drawn; the reasons are above")
    for path in drawn:
        print(path)
    return cli.OK


def _words(text: str, option: str, known) -> list[str]:
    from ditask_jax.errors import check_known

    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        check_known(f"command line: {option}", word, known)
    return words


def _numbers(text: str) -> list[int]:
    from ditask_jax.errors import ConfigError

    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() for word in words):
        raise ConfigError(f"command line: --examples: got '{text}', expected whole numbers joined by commas, as in 0,7")
    return list(dict.fromkeys(map(int, words)))


if __name__ == "__main__":
    cli.run(main, compiles=True)
