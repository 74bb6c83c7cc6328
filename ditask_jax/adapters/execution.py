"""How an adapted product is computed, and the rule that picks the cheapest way.

*Materialised* builds `W + U diag(delta) V` for every stream and multiplies once; its backward pass has a third
product, the weight gradient. *Factored* multiplies by `U`, scales by the deformed singular values and multiplies by
`V`: no weight gradient, and streams that leave one input share the first product.
"""

from ditask_jax.errors import check_known

# "merged" means plain kernels: evaluation always uses them, and training, which cannot, resolves it like "auto".
EXECUTIONS = ("auto", "materialised", "factored", "merged")


def multiply_adds(
    execution: str, shape: tuple[int, int], parts: int, rank: int, streams_in: int, streams_out: int, rows: int
) -> int:
    """Multiply-adds of one layer, forward and backward (towards the input and theta), for `rows` tokens per stream.

    Per token C -> 4C this is 12 C^2 materialised and 10 C^2 factored; square, 3 C^2 and 4 C^2 (DESIGN of the package:
    a frozen product costs 8 C^2 and 2 C^2).

    >>> multiply_adds("factored", (8, 32), 1, 8, 1, 1, 1) / 8**2
    10.0
    """
    inputs, outputs = shape
    if execution == "factored":
        return 2 * rows * (streams_in * inputs * parts * rank + streams_out * rank * outputs)
    build = 2 * streams_out * inputs * rank * outputs
    return 3 * rows * streams_out * inputs * outputs + build


def choose_execution(
    asked: str, shape: tuple[int, int], parts: int, rank: int, streams_in: int, streams_out: int, rows: int
) -> str:
    """Resolves "auto" (and "merged") to the way with fewer multiply-adds; the two ways pass through after a check.

    >>> choose_execution("auto", (96, 96), 1, 96, 1, 1, 12544), choose_execution("auto", (96, 384), 1, 96, 1, 1, 12544)
    ('materialised', 'factored')
    """
    check_known("config: method.execution", asked, EXECUTIONS)
    if asked in ("materialised", "factored"):
        return asked
    cost = lambda way: multiply_adds(way, shape, parts, rank, streams_in, streams_out, rows)
    return min(("factored", "materialised"), key=cost)
