"""`python -m ditask_jax.compare`: runs side by side, in a table and a figure."""

from pathlib import Path

from ditask_jax import cli
from ditask_jax.errors import optional


def main(argv: list[str]) -> int:
    """Prints a table of runs; writes it as Markdown and CSV, and delta_m against trainable parameters as a figure."""
    parser = cli.Parser(
        "ditask_jax.compare",
        "Compares evaluated runs: scores per task, delta_m, trainable parameters, time and memory of a step, with mean "
        "and spread over runs that differ in nothing but the seed. Single-task runs of one method make one row.",
        [
            "runs/ditask_seed0 runs/ditask_seed1 runs/lora_seed0",
            "runs/methods --reference=runs/references --out=runs/comparison",
        ],
        config=None,
    )
    parser.add_path("runs", nargs="+", metavar="RUN", help="folder of a run, or a folder with several runs in it")
    note = "single-task run that delta_m is taken against, or a folder of them; once per run (default: the package's)"
    parser.add_path("--reference", action="append", default=[], metavar="RUN", help=note)
    parser.add_path("--out", default="runs/comparison", metavar="DIR", help="folder to write (default: %(default)s)")
    note = "trainable parameters on the figure's axis: backbone (default, as published) or total, decoders included"
    parser.add_option("--count", choices=["backbone", "total"], default="backbone", metavar="WHICH", help=note)
    args = parser.parse(argv)

    from ditask_jax.files import atomic_write_text
    from ditask_jax.plots.sheet import save
    from ditask_jax.reports.comparison import compare
    from ditask_jax.reports.runs import find_runs

    found = compare(find_runs(args.runs), find_runs(args.reference))
    out = Path(args.out)
    written = [
        atomic_write_text(out / "comparison.md", found.markdown()),
        atomic_write_text(out / "comparison.csv", found.csv()),
    ]
    print(found.markdown())
    with optional(f"figure {out / 'delta_m'}"):
        figure = found.figure(args.count)
        if figure is not None:
            written += save(figure, out / "delta_m")
        else:
            print("no figure: no row has both delta_m and a count of what trains")
    for file in written:
        print(f"wrote {file}")
    return cli.OK


if __name__ == "__main__":
    cli.run(main)
