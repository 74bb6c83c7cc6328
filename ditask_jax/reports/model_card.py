"""`MODEL_CARD.md`: what a trained model is made of, how it was made, how well it does, and the licences that apply."""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

from ditask_jax.backbones import BackboneEntry, backbone_entry
from ditask_jax.config import to_json
from ditask_jax.files import atomic_write_text, user_path
from ditask_jax.heads import heads_of
from ditask_jax.hub.addresses import HubAddress, is_hub, sha256_of
from ditask_jax.reports.published import count, duration, published, score_text, signed
from ditask_jax.reports.runs import Run, read_run
from ditask_jax.tasks.task_registry import DATASETS
from ditask_jax.training.experiment import build_method
from ditask_jax.training.run_folder import read_launches

# Where the base weights of a run come from, and under which licence their makers released them.


_LARGEST_HEADER = 100_000_000
_TRAINED_ON = {
    "22kto1k": "ImageNet-22k, then ImageNet-1k",
    "in22k_ft_in1k": "ImageNet-22k, then ImageNet-1k",
    "in21k_ft_in1k": "ImageNet-21k, then ImageNet-1k",
    "22k": "ImageNet-22k",
    "in21k": "ImageNet-21k",
}


def weights_lines(
    backbone: str, weights: str | None, resolved: str | None = None, sha256: str | None = None
) -> list[str]:
    """What a model card says of the base weights, as lines of a list.

    Args:
      backbone: name in the registry.
      weights: `backbone.weights` of the configuration.
      resolved, sha256: what an address on a hub led to, `backbone.weights_resolved` and `backbone.weights_sha256`.
    """
    if weights is None:
        return ["- none: training started from random numbers"]
    entry = backbone_entry(backbone)
    if weights == "embedded":
        return [
            f"- `{entry.embedded_weights}` inside ditask_jax, trained on procedural scenes by "
            "`python -m ditask_jax.pretrain`",
            f"- licence: {entry.licence}, as the package",
        ]
    found, name = [], ""
    if is_hub(weights):
        address = HubAddress.parse(resolved or weights)
        found += [f"- from `{address}` (SHA-256 `{sha256 or 'not recorded'}`)", f"- page: {address.page}"]
    else:
        path = user_path(weights)
        described = description(path)
        found.append(f"- file: `{path.name}`")
        name, digest = described.get("source", ""), described.get("source_sha256", "not recorded")
        if name:
            found.append(f"- converted from `{name}` (SHA-256 `{digest}`)")
        elif not described.get("format", "").startswith("ditask_jax/") and path.is_file():
            found[0] += f" (SHA-256 `{sha256_of(path)}`), converted when it was read"
        name = name or path.name
        address = HubAddress.parse(name) if is_hub(name) else None
    released = _released(address.name if address and address.file == "model.safetensors" else name, entry.weight_files)
    if released:
        trained = next(
            (data for mark, data in _TRAINED_ON.items() if mark in released), entry.trained_on or "ImageNet-1k"
        )
        found.append(f"- by its name the released file `{released}`, trained on {trained}")
        images = "" if entry.trained_on else " (ImageNet: non-commercial research)"
        found.append(
            f"- licence of the released weights: {_licence(entry)}; that of the images behind them{images} is another "
            "matter"
        )
    else:
        known = f"; released weights of this architecture are under {_licence(entry)}" if entry.licence else ""
        found.append(f"- licence: not known, the file is none of the released ones by its name{known}")
    return found


def _licence(entry: BackboneEntry) -> str:
    """The name of the licence of released weights, and where to read and to accept it where that must be said."""
    page = f", {entry.licence_page}" if entry.licence_page else ""
    gate = f", to be accepted on {entry.gated} before one gets them" if entry.gated else ""
    return f"{entry.licence}{page}{gate}"


def _released(name: str, files: tuple[str, ...]) -> str:
    """The released file of a name, whatever ending it has now."""
    plain = lambda text: text.lower().removesuffix(".pth").removesuffix(".safetensors").removesuffix(".bin")
    return next((file for file in files if plain(file) == plain(Path(name).name)), "")


def description(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself, without reading its numbers; empty where it cannot be read.

    >>> description(Path("no such file"))
    {}
    """
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length < _LARGEST_HEADER else {}
    except (OSError, struct.error, ValueError):
        return {}
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}


# The card.


CARD_NAME = "MODEL_CARD.md"


def model_card(run: Run, exported: str | None = None, step: int | None = None) -> str:
    """The card of a run.

    Args:
      run: as `read_run` reads it; without an evaluation the card says so.
      exported: name of the file it was exported to; None: the card of the run itself.
      step: steps behind the exported file.
    """
    title = exported or run.path.resolve().name
    sections = {
        "Model": _model(run, exported, step),
        "Base weights and licence": weights_lines(
            run.config.backbone.name,
            *(run.config.backbone.get(f"weights{part}") for part in ("", "_resolved", "_sha256")),
        ),
        "Data": _data(run),
        "Training": _training(run),
        "Scores": _scores(run, step),
        "Limits": _limits(run),
    }
    parts = [f"# {title}", "Written by ditask_jax from the run's own files; it states what they hold and no more."]
    for heading, lines in sections.items():
        parts += [f"## {heading}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def write_model_card(workdir: str | Path, out: str | Path | None = None, step: int | None = None) -> Path:
    """Writes the card of a run into its folder, or of an exported file beside that.

    Args:
      workdir: the run's folder.
      out: an exported file; None: the run itself.
      step: steps behind the exported file.

    Returns:
      The card: `MODEL_CARD.md` in the folder, or `NAME.MODEL_CARD.md` beside `NAME.safetensors`.

    Raises:
      CheckpointError: there is no run in the folder, or a file of it is damaged.
    """
    run = read_run(workdir, evaluated=False)
    if out is None:
        return atomic_write_text(run.path / CARD_NAME, model_card(run))
    out = user_path(out)
    return atomic_write_text(out.with_name(f"{out.stem}.{CARD_NAME}"), model_card(run, out.name, step))


def config_hash(run: Run) -> str:
    """SHA-256 of the run's configuration as JSON, every field of it."""
    return hashlib.sha256(to_json(run.config).encode("utf-8", "backslashreplace")).hexdigest()


def _model(run: Run, exported: str | None, step: int | None) -> list[str]:
    config, options = run.config, build_method(run.config).describe()
    tasks = ", ".join(f"{task.name} ({task.num_outputs} outputs)" for task in run.tasks)
    heads = heads_of(run.tasks, config.head.name, config.head.per_task)
    by_head = {head: [task for task in heads if heads[task] == head] for head in heads.values()}
    one = len(by_head) == 1
    decoders = ", ".join(f"`{head}`" + ("" if one else f" ({' '.join(names)})") for head, names in by_head.items())
    found = [
        f"- backbone: `{config.backbone.name}`, images of {_size(config.image_size)} pixels",
        f"- tasks: {tasks}; {'decoder' if one else 'decoders'} {decoders}",
        f"- method: `{run.method}`{f', {options}' if options else ''}",
    ]
    if run.trainable_backbone is not None:
        found.append(
            f"- trained: {count(run.trainable_backbone)} numbers in the backbone, {count(run.trainable_total)} with "
            "necks and decoders; all other weights are those of the base"
        )
    if exported is not None:
        found.append(f"- this file: `{exported}`, adapters merged, after {count(step)} steps")
    return [*found, f"- configuration: SHA-256 `{config_hash(run)}` (`config.json` of the run)"]


def _size(size) -> str:
    return f"{size} x {size}" if isinstance(size, int) else f"{size[0]} x {size[1]}"


def _data(run: Run) -> list[str]:
    data, info = run.config.data, DATASETS[run.config.data.name]
    found = [f"- `{data.name}`: {info.terms or 'its terms are for the user to state'}"]
    if data.name == "vtab":
        found.append(f"- task: {data.vtab_task}")
    for split, limit in (("training", data.train_examples), ("validation", data.eval_examples)):
        if limit is not None:
            found.append(f"- at most {count(limit)} {split} images were used")
    if distilled := [name for name in info.distilled if name in run.task_names]:
        found.append(
            f"- Labels of {' and '.join(distilled)} come from other networks, not from people, and inherit their "
            "mistakes."
        )
    return found


def _training(run: Run) -> list[str]:
    config, optimizer = run.config, run.config.optimizer
    peak = optimizer.learning_rate * config.batch_size / 512
    found = [
        f"- {count(run.rows[-1]['step'] if run.rows else run.step)} steps of {config.batch_size} images, "
        f"`{optimizer.name}`, peak learning rate {peak:.3g}, schedule `{optimizer.schedule}`, weight decay "
        f"{optimizer.weight_decay:g}, seed {config.seed}, activations in {config.compute_dtype}"
    ]
    starts = read_launches(run.path)
    if starts:
        last = starts[-1]
        found.append(f"- on {last.get('device_count')} x {', '.join(last.get('devices') or ['unknown'])}")
    seconds = sum(run.series("time/step")[1]) + sum(run.series("time/read")[1])
    if seconds:
        found.append(f"- {duration(seconds)} in steps and waiting for their batches")
    return found


def _scores(run: Run, step: int | None) -> list[str]:
    if run.evaluation is None:
        return ["Not evaluated. `python -m ditask_jax.evaluate --workdir=DIR` scores the whole validation split."]
    evaluation = run.evaluation
    references: Mapping[str, float] = evaluation.get("references") or {}
    lines = ["| task | metric | score | single-task reference |", "|---|---|---:|---:|"]
    for task in run.tasks:
        unit = task.shown_unit[1]
        reference = references.get(task.name)
        shown = "" if reference is None else f"{score_text(task, reference)} {unit}".rstrip()
        score = run.primary(task)
        score = "unknown" if score is None else f"{score_text(task, score)} {unit}".rstrip()
        lines.append(f"| {task.name} | {task.primary_metric} | {score} | {shown} |")
    lines += [
        "",
        f"delta_m {signed(run.delta_m)} %: mean gain over the single-task references."
        if run.delta_m is not None
        else f"delta_m is not defined: {_missing(run, references)}.",
        "",
        f"Protocol: validation split, {count(evaluation.get('examples'))} images, "
        f"{evaluation.get('protocol', 'not recorded')}, after {count(run.step)} steps.",
    ]
    if step is not None and step != run.step:
        lines += ["", f"The exported file is of step {count(step)}: these scores are not its own."]
    known = published(run.dataset)
    different = [] if known is None else known.differences(run)
    if different:
        lines += ["", "Not the published protocol:", "", *(f"- {line}" for line in different)]
    return lines


def _missing(run: Run, references: Mapping[str, float]) -> str:
    unknown = [task.name for task in run.tasks if run.primary(task) is None]
    if unknown:
        return f"the score of {', '.join(unknown)} is unknown"
    return "a single-task reference is missing"


def _limits(run: Run) -> list[str]:
    found = [
        "- Scores are of one seed and of the validation split, on which options may have been chosen; there is no test "
        "split.",
        f"- It was trained on {run.dataset} alone: images of another kind, camera or size were not tried.",
        "- Outputs carry no measure of how sure they are; nothing here was tried for decisions about people or safety.",
    ]
    config = run.config
    if run.step is not None and config.total_steps is not None and run.step < config.total_steps:
        found.append(f"- Training was not finished: step {count(run.step)} of {count(config.total_steps)}.")
    if config.backbone.weights is None:
        found.append("- It started from random weights: a check of the program, not a model to use.")
    found += [f"- {task.limits}" for task in run.tasks if task.limits]
    return found
