"""`python -m ditask_jax.data build`: prepares a data set once."""

from ditask_jax import cli
from ditask_jax.data.commands.bar import progress_bar
from ditask_jax.data.commands.options import add_tree_options, folder, parse_tasks
from ditask_jax.data.trees import TREES
from ditask_jax.errors import ConfigError, check_known

EXAMPLES = (
    "pascal --root PASCAL_MT --out prepared",
    "nyud --root NYUD_MT --out prepared --tasks semseg+depth+normals",
    "cityscapes --root cityscapes --out prepared --depth-unit metres",
    "vtab --task cifar100 --out prepared",
)
NAMES = (*TREES, "vtab")


def add_arguments(parser) -> None:
    """Adds the options of this command to a `cli.Parser`."""
    add_tree_options(parser, NAMES, root_required=False)
    parser.add_path("--out", required=True, metavar="DIR", help="folder for the prepared set: data.root of training")
    parser.add_option("--task", metavar="NAME", help="vtab: which of its 19 tasks")
    parser.add_option("--skip-bad", action="store_true", help="leave out examples with missing or damaged files")
    parser.add_option("--replace", action="store_true", help="prepare anew where a set of other contents stands")


def run(args) -> int:
    """Prepares the set, or verifies the one that is there."""
    check_known("command line: NAME", args.name, NAMES)
    if args.name == "vtab":
        return _build_vtab(args)
    if args.root is None:
        raise ConfigError(f"command line: --root: missing; give the folder that the archives of {args.name} unpack to")
    from ditask_jax.data.prepare import Wish, prepare

    wish = Wish(args.name, parse_tasks(args.tasks), args.layout, args.depth_unit, args.semseg_classes, args.skip_bad)
    done = {"train": 0, "val": 0}
    with progress_bar("preparing") as update:

        def count(split: str, _: str, total: int) -> None:
            done[split] += 1
            update(split, done[split], total)

        target, manifest = prepare(wish, folder(args.root), folder(args.out), args.replace, _say, count)
    for split, entry in manifest["splits"].items():
        skipped = f", {len(entry['skipped'])} left out (listed in prepared.json)" if entry["skipped"] else ""
        other = "" if entry["examples"] == entry["published"] else f" ({entry['published']} as published)"
        print(f"{split}: {entry['examples']} examples{other}{skipped}")
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    print(f"{target}: {' '.join(manifest['tasks'])}, {size / 1e6:.1f} MB; train with data.root={args.out}")
    return cli.OK


def _build_vtab(args) -> int:
    if args.task is None:
        raise ConfigError("command line: --task: missing; name one of the 19 tasks, for example --task cifar100")
    from ditask_jax.data.vtab_prepare import prepare_vtab

    target = prepare_vtab(args.task, folder(args.out), None if args.root is None else folder(args.root))
    print(f"{target}: prepared; train with data.root={args.out} and data.vtab_task={args.task}")
    return cli.OK


def _say(line: str) -> None:
    print(line, flush=True)
