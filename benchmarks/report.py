"""What `benchmarks/step.py` found, as Markdown."""

from collections.abc import Iterable, Mapping, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table.

    >>> print(markdown(["row", "s"], [["a", "1"]]))
    | row | s |
    |---|---|
    | a | 1 |
    """
    lines = [header, ["---"] * len(header), *rows]
    text = [f"| {' | '.join(line)} |" for line in lines]
    text[1] = f"|{'|'.join(lines[1])}|"
    return "\n".join(text)


def table(batch: int, entry: Mapping) -> str:
    """All tables of one batch size."""
    if "memory" in entry:
        return _memory(batch, entry["memory"])
    if "inference" in entry:
        return _inference(batch, entry["inference"])
    return _steps(batch, entry)


def _giga(value: float | None) -> str:
    return "" if value is None else f"{value / 1e9:.1f}"


def _steps(batch: int, entry: Mapping) -> str:
    programs, needed, ratios = entry["programs"], entry["needed_flops"], entry["ratios"]
    rows = []
    for name, row in entry["rows"].items():
        if name.startswith(("product", "copy")):
            continue
        program = programs.get(name, {})
        rows.append(
            [
                name,
                f"{row['seconds']:.3f}",
                f"{row['best_seconds']:.3f}",
                f"{row['cpu_seconds']:.3f}",
                f"{ratios[name]:.2f}" if name in ratios else "",
                f"{entry['cpu_ratios'][name]:.2f}" if name in ratios else "",
                _giga(needed.get(name, {}).get("total")),
                _giga(program.get("flops")),
                _giga(program.get("bytes_accessed")),
                f"{program['temporary'] / 1e6:.0f}" if program else "",
                f"{program['compile_seconds']:.0f}" if program else "",
            ]
        )
    header = [
        "row",
        "s",
        "best",
        "CPU s",
        "ours / it",
        "in CPU s",
        "GFLOP needed",
        "compiled",
        "GB",
        "temp MB",
        "compile s",
    ]
    lines = [f"batch {batch}", "", markdown(header, rows), ""]
    rates = entry["machine"]["product_flops"]
    speeds = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    lines.append(f"machine: {speeds}, copy {entry['machine']['copy_bytes'] / 1e9:.1f} GB/s")
    if "floor_seconds" in entry:
        share = f"{100 * entry['share_of_floor']:.0f} %"
        lines.append(f"floor: {entry['floor_seconds']:.3f} s, {share} of its rate reached")
    if "full_ratio" in entry:
        both = f"{entry['full_ratio']:.2f} ({entry['full_cpu_ratio']:.2f} in CPU s)"
        lines.append(f"full fine-tuning, ours / transformers: {both}")
    cpab, step = entry["rows"].get("part: CPAB, with gradient"), entry["rows"]["ours"]
    if cpab is not None:
        lines.append(f"CPAB with gradient: {100 * cpab['cpu_seconds'] / step['cpu_seconds']:.2f} % of the step's CPU s")
    for kernel in entry.get("kernels", ()):
        lines.append(f"{kernel['milliseconds']:10.1f} ms in {kernel['calls']:4} calls of {kernel['kernel']}")
    return "\n".join(lines)


def _inference(batch: int, entry: Mapping) -> str:
    rows = [
        [name, f"{row['seconds']:.3f}", f"{row['best_seconds']:.3f}", f"{row['cpu_seconds']:.3f}",
         _giga(entry["programs"][name]["flops"])]
        for name, row in entry["rows"].items()
    ]  # fmt: skip
    ratios = [
        [pair, f"{value:.2f}", f"{entry['cpu_ratios'][pair]:.2f}", f"{entry['limits'][pair]:.2f}"]
        for pair, value in entry["ratios"].items()
    ]
    first = markdown(["inference", "s", "best", "CPU s", "GFLOP compiled"], rows)
    return f"batch {batch}\n\n{first}\n\n{markdown(['ratio', 'by the clock', 'in CPU s', 'wanted'], ratios)}"


def _memory(batch: int, entry: Mapping) -> str:
    keys = ("arguments", "temporary", "optimiser_state", "held", "held_without_optimiser")
    rows = [[name, *(f"{facts[key] / 1e6:,.0f}" for key in keys)] for name, facts in entry.items()]
    header = ["MB", "arguments", "temporaries", "optimiser state of these", "held", "held without it"]
    return f"batch {batch}\n\n{markdown(header, rows)}"
