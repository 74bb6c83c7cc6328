"""`python -m ditask_jax.report`: what runs did, as one HTML page to read, send or print."""

from pathlib import Path

from ditask_jax import cli


def main(argv: list[str]) -> int:
    """Reads run folders and writes the page; nothing is restored or computed again."""
    parser = cli.Parser(
        "ditask_jax.report",
        "Writes one page on runs that needs no network: scores beside published ones with their protocol, curves, "
        "images with a slider and a switch per task, what trains, hardware and time, configuration.",
        [
            "runs/scenes --out=report.html",
            "runs/scenes runs/scenes_frozen --out=report.html --title='Thetas or decoders alone'",
        ],
        config=None,
    )
    parser.add_path("runs", nargs="*", metavar="RUN", help="folder of a run, or a folder with several runs in it")
    parser.add_path("--out", required=True, metavar="FILE", help="the page to write, for example report.html")
    parser.add_option("--title", metavar="TEXT", help="heading (default: the names of the runs)")
    note = "images per data set at the most (default: 8)"
    parser.add_option("--images", default="8", metavar="N", help=note, former=("--pictures",))
    args = parser.parse(argv)

    from ditask_jax.errors import ConfigError

    out = Path(args.out)
    if not args.runs:
        raise ConfigError(f"command line: RUN: missing; name at least one run folder. See {parser.prog} --help")
    if not args.images.isascii() or not args.images.isdigit():
        raise ConfigError(f"command line: --images: got {args.images!r}, expected a whole number from 0 up")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"command line: --out: got '{out}', expected a file that ends in .html")
    if out.is_dir():
        raise ConfigError(f"command line: --out: '{out}' is a folder; give a file that ends in .html")

    from ditask_jax.files import atomic_write_text
    from ditask_jax.reports import find_runs
    from ditask_jax.reports.report_html import report_page

    page = report_page(find_runs(args.runs, evaluated=False), args.title, int(args.images))
    written = atomic_write_text(out, page)
    print(f"wrote {written} ({written.stat().st_size / 1e6:.1f} MB)")
    return cli.OK


if __name__ == "__main__":
    cli.run(main, compiles=True)
