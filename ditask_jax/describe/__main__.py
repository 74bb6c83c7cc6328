"""`python -m ditask_jax.describe`: what a configuration means, before anything is trained."""

from ditask_jax import cli
from ditask_jax.config import load_config
from ditask_jax.files import json_text


def main(argv: list[str]) -> int:
    """Prints the resolved configuration, the adapter plan, parameters by group and the learning-rate schedule."""
    parser = cli.Parser(
        "ditask_jax.describe",
        "Prints a configuration, its adapter plan, its parameters by group and its schedule; loads no data or weights.",
        [
            "--config=configs/pascal_swin_tiny.py",
            "--config=configs/pascal_swin_tiny.py:mtlora_r64 --json",
            "--config=configs/pascal_swin_tiny.py --diff=configs/pascal_swin_tiny.py:lora_r8",
            "--config=configs/smoke.py --cost",
            "--options",
        ],
        config="optional" if "--options" in argv else "required",
    )
    note = "print every field with its default and meaning; with --config also its values, its method and heads alone"
    parser.add_option("--options", action="store_true", help=note)
    parser.add_option("--json", action="store_true", help="print JSON instead of text")
    parser.add_option(
        "--cost", action="store_true", help="also compile a step and a forward pass, and print what they cost (slow)"
    )
    note = "print only how this configuration (a file, with an optional :VARIANT) differs from that of --config"
    parser.add_option("--diff", metavar="FILE", help=note)
    args = parser.parse(argv)

    from ditask_jax.describe.summary import (
        describe,
        describe_difference,
        describe_text,
        difference_text,
        options_text,
    )

    if args.options:
        print(options_text(args.config))
    elif args.diff is not None:
        found = describe_difference(args.config, load_config(args.diff))
        print(json_text(found, indent=2, ascii=True) if args.json else difference_text(found))
    elif args.json:
        print(json_text(describe(args.config, args.cost), indent=2, ascii=True))
    else:
        print(describe_text(args.config, args.cost))
    return cli.OK


if __name__ == "__main__":
    cli.run(main)
