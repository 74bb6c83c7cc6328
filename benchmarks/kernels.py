"""The kernels that take most of a step, from a trace of JAX's profiler."""

import collections
import gzip
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax


def top(run: Callable[[], object], folder: str, count: int = 10) -> list[dict]:
    """Traces one call and lists its kernels: name without number, milliseconds over all threads or streams, calls."""
    with jax.profiler.trace(folder):
        run()
    newest = max(pathlib.Path(folder).rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    return summarise(json.loads(gzip.decompress(newest.read_bytes()))["traceEvents"], count)


def summarise(events: Sequence[Mapping], count: int = 10) -> list[dict]:
    """The largest sums of durations by kernel, from events of the trace format.

    Kernels are complete events of GPU streams, or of the threads on which XLA runs programs on a CPU.

    >>> events = [
    ...     {"ph": "M", "name": "thread_name", "pid": 1, "tid": 2, "args": {"name": "tf_XLAEigen/7"}},
    ...     {"ph": "X", "name": "dot.3", "pid": 1, "tid": 2, "dur": 1500.0},
    ...     {"ph": "X", "name": "dot.4", "pid": 1, "tid": 2, "dur": 500.0},
    ... ]
    >>> summarise(events)
    [{'kernel': 'dot', 'milliseconds': 2.0, 'calls': 2}]
    """
    named = [event for event in events if event.get("ph") == "M" and "name" in event.get("args", {})]
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in named if e["name"] == "thread_name"}
    processes = {e["pid"]: e["args"]["name"] for e in named if e["name"] == "process_name"}
    times, calls = collections.Counter(), collections.Counter()
    for event in events:
        if event.get("ph") != "X":
            continue
        on_gpu = "GPU" in processes.get(event["pid"], "") and "Stream" in threads.get((event["pid"], event["tid"]), "")
        on_cpu = threads.get((event["pid"], event["tid"]), "").startswith("tf_XLAEigen")
        if (on_gpu or on_cpu) and not event["name"].startswith("ThunkExecutor"):
            name = event["name"].rstrip("0123456789").rstrip("._")
            times[name] += event.get("dur", 0)
            calls[name] += 1
    return [{"kernel": k, "milliseconds": t / 1e3, "calls": calls[k]} for k, t in times.most_common(count)]
