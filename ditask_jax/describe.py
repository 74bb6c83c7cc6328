"""`python -m ditask_jax.describe`: what a configuration means, before anything is trained."""

import json

from ditask_jax import cli


def main(argv: list[str]) -> int:
    """Prints the resolved configuration, the adapter plan, parameters by group and the learning-rate schedule."""
    parser = cli.Parser(
        "ditask_jax.describe",
        "Prints a configuration, its adapter plan, its parameters by group and its schedule; loads no data or weights.",
        [
            "--config=configs/pascal_swin_tiny.py",
            "--config=configs/pascal_swin_tiny.py --config.method.task_cells=4 --json",
        ],
    )
    parser.add_option("--json", action="store_true", help="print JSON instead of text")
    args = parser.parse(argv)

    from ditask_jax.training.describing import describe, describe_text

    print(json.dumps(describe(args.config), indent=2) if args.json else describe_text(args.config))
    return cli.OK


if __name__ == "__main__":
    cli.run(main)
