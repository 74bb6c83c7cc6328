"""What the compiler says of a program it has made: work, traffic and memory."""

from typing import Any

_MEMORY = {"arguments": "argument", "results": "output", "temporary": "temp"}


def program_work(compiled: Any) -> dict[str, float | None]:
    """`flops` and `bytes_accessed` by the compiler's count; None where it does not tell.

    >>> import jax
    >>> program_work(jax.jit(lambda x: x @ x).lower(jax.numpy.ones((8, 8))).compile())["flops"] > 0
    True
    """
    analysis = compiled.cost_analysis() or {}
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return {"flops": analysis.get("flops"), "bytes_accessed": analysis.get("bytes accessed")}


def program_memory(compiled: Any) -> dict[str, int | None]:
    """Bytes on one device: `arguments`, `results`, `temporary`, and `together`; None where the compiler does not tell.

    What a program writes over its arguments (the state of a step) is counted among arguments and results alike, and
    once in `together`.
    """
    memory = compiled.memory_analysis()
    sizes = {name: getattr(memory, f"{kind}_size_in_bytes", None) for name, kind in _MEMORY.items()}
    reused = getattr(memory, "alias_size_in_bytes", 0)
    return sizes | {"together": None if None in sizes.values() else sum(sizes.values()) - reused}
