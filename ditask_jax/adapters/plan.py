"""Where a method may attach adapters (`Site`), and the plan of what will train where, printable before anything is
built.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from ditask_jax.nn.linear import SHARED, USUAL_ROLES, LayerInfo, Linear, Roles

# A dense layer as a method sees it when it plans: where it stands, and which streams may run through it.


# Of the backbones in the package, and the defaults of options.
ROLES = USUAL_ROLES.order


@dataclasses.dataclass(frozen=True)
class Site:
    """What a method may know of one dense layer.

    Attributes:
      info: where the layer stands.
      shape: (in, out).
      tasks: names of the tasks that read the stage, in order.
      examples: images per step, for cost rules.
      stages: number of stages of the backbone.
      blocks_behind: blocks between this one and the end of its stage; None where the stage is unused.
      last_stage: whether the layer is in the last stage.
      roles: of the backbone's blocks.
    """

    info: LayerInfo
    shape: tuple[int, int]
    tasks: tuple[str, ...]
    examples: int
    stages: int
    blocks_behind: int | None
    last_stage: bool
    roles: Roles = USUAL_ROLES

    @property
    def in_block(self) -> bool:
        """Whether the layer is part of a block, not between blocks."""
        return self.info.role in self.roles.order


def sites(
    layers: Sequence[Linear],
    tasks_of_stage: Callable[[int], tuple[str, ...]],
    examples: int,
    roles: Roles = USUAL_ROLES,
) -> list[Site]:
    """The sites of all dense layers of a backbone; `tasks_of_stage` names the tasks that read a stage."""
    infos = [layer.info for layer in layers]
    stages = 1 + max((info.stage for info in infos), default=-1)
    # A block that ends an unused stage does not say so: no stream needs to leave there.
    ends = {info.stage: info.block for info in infos if info.last_in_stage and info.role in roles.order}

    def site(layer: Linear) -> Site:
        info = layer.info
        behind = ends[info.stage] - info.block if info.role in roles.order and info.stage in ends else None
        shape = (layer.inputs, layer.outputs)
        return Site(info, shape, tasks_of_stage(info.stage), examples, stages, behind, info.stage == stages - 1, roles)

    return [site(layer) for layer in layers]


@dataclasses.dataclass(frozen=True)
class FanOut:
    """Where task streams split off from the shared one, and where that ends.

    In the last `blocks` blocks of a stage every task has a stream of its own; they split at the first layer of
    `layers` in the first of these blocks and persist to the end of the stage. Behind the last reader of the shared
    stream there is none: neither its products nor its parameters exist.

    Attributes:
      layers: roles with parameters per task.
      blocks: how many of a stage's last blocks the task streams run through.
      reads_shared: whether a task's layer looks at the shared stream too, so that this must reach the last such layer.
    """

    layers: tuple[str, ...]
    blocks: int = 1
    reads_shared: bool = False

    def applies(self, site: Site) -> bool:
        """Whether the layer has parameters per task."""
        wanted = site.info.role in self.layers and site.info.role in site.roles.task
        return wanted and site.blocks_behind is not None and site.blocks_behind < self.blocks

    def splits(self, site: Site) -> bool:
        """Whether one stream enters the layer and several leave it."""
        return self.applies(site) and self._is_first_block(site) and site.info.role == self._order(site)[0]

    def streams(self, site: Site) -> tuple[str, ...]:
        """Streams that leave the layer; () for "those that enter"."""
        if not self.applies(site):
            return ()
        return site.tasks if self.ends_shared(site) else (SHARED, *site.tasks)

    def owners(self, site: Site, shared: bool) -> tuple[str, ...]:
        """Streams with parameters of their own in the layer; the shared one, where asked for, as long as it is read."""
        streams = self.streams(site)
        tasks = tuple(stream for stream in streams if stream != SHARED)
        return (SHARED, *tasks) if shared and (not streams or SHARED in streams) else tasks

    def ends_shared(self, site: Site) -> bool:
        """Whether no layer behind this one reads the shared stream."""
        if not site.last_stage:
            return False
        return not self.reads_shared or (site.info.last_in_model and site.info.role == self._order(site)[-1])

    def _order(self, site: Site) -> list[str]:
        return [role for role in site.roles.order if role in self.layers and role in site.roles.task]

    def _is_first_block(self, site: Site) -> bool:
        return site.info.block == 0 or site.blocks_behind == self.blocks - 1


# The adapter plan: what will train where, and how many parameters that is. Printable before anything is built.


GROUPS = (
    "patch_embed",
    "norms",
    "relative_position_bias_table",
    "positions",
    "layer_scale",
    "reduction",
    "convolutions",
    "adapter shared",
    "adapter task",
    "linears",
    "necks",
    "heads",
)


def parameter_group(path: str) -> str:
    """The group that a parameter is counted in, from its path.

    >>> parameter_group("backbone/stages/0/merging/norm/scale")
    'norms'
    >>> parameter_group("backbone/stages/0/blocks/1/mlp/fc1/adapter/theta_shared")
    'adapter shared'
    >>> parameter_group("backbone/stages/0/blocks/1/attn/relative_position_bias_table")
    'relative_position_bias_table'
    """
    parts = path.split("/")
    if parts[0] in ("necks", "heads"):
        return parts[0]
    if "adapter" in parts:
        return "adapter shared" if parts[-1].endswith("shared") else "adapter task"
    if "patch_embed" in parts:
        return "patch_embed"
    if parts[-1] == "relative_position_bias_table":
        return "relative_position_bias_table"
    if parts[-1] in ("position_embedding", "class_token", "register_tokens"):
        return "positions"
    if any(part.startswith("layer_scale") for part in parts):
        return "layer_scale"
    if any(part.startswith("norm") for part in parts):
        return "norms"
    if {"spatial_reduction", "depthwise"} & set(parts):
        return "convolutions"
    return "reduction" if "reduction" in parts else "linears"


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """What a method attaches to one dense layer.

    Attributes:
      info: where the layer stands.
      shape: (in, out).
      streams: names of the streams that leave the layer; empty means "whatever enters".
      parameters: shape of every trainable array of the adapter, by name.
      execution: how the product is computed.
    """

    info: LayerInfo
    shape: tuple[int, int]
    streams: tuple[str, ...]
    parameters: Mapping[str, tuple[int, ...]]
    execution: str

    @property
    def trainable(self) -> int:
        """Trainable numbers of the adapter."""
        return sum(math.prod(shape) for shape in self.parameters.values())

    @property
    def trainable_shared(self) -> int:
        """Those of them that all tasks share."""
        return sum(math.prod(shape) for name, shape in self.parameters.items() if name.endswith("shared"))


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a whole model.

    Attributes:
      method: name of the method.
      layers: one entry per adapted layer.
      groups: trainable parameters by group.
      upstream_extra: what the reference implementations count on top, by group.
      total: all numbers of the model, adapters included, singular vectors not (they are the frozen weights).
    """

    method: str
    layers: tuple[LayerPlan, ...]
    groups: Mapping[str, int]
    upstream_extra: Mapping[str, int]
    total: int

    @property
    def trainable_total(self) -> int:
        """All trainable parameters."""
        return sum(self.groups.values())

    @property
    def trainable_decoder(self) -> int:
        """Trainable parameters in necks and heads."""
        return self.groups.get("necks", 0) + self.groups.get("heads", 0)

    @property
    def trainable_backbone(self) -> int:
        """Trainable parameters in the backbone, adapters included."""
        return self.trainable_total - self.trainable_decoder

    @property
    def upstream(self) -> dict[str, int]:
        """The first two counts as reference implementations make them, with parameters that never get a gradient."""
        extra = sum(self.upstream_extra.values())
        return {
            "trainable_backbone": self.trainable_backbone + extra,
            "trainable_total": self.trainable_total + extra,
        }

    def to_json(self) -> dict:
        """The plan as plain data."""
        return {
            "method": self.method,
            "trainable_backbone": self.trainable_backbone,
            "trainable_total": self.trainable_total,
            "total": self.total,
            "groups": dict(self.groups),
            "upstream": self.upstream,
            "upstream_extra": dict(self.upstream_extra),
            "layers": [
                {
                    "path": layer.info.path,
                    "role": layer.info.role,
                    "shape": list(layer.shape),
                    "parts": layer.info.parts,
                    "streams": list(layer.streams),
                    "execution": layer.execution,
                    "trainable": layer.trainable,
                }
                for layer in self.layers
            ],
        }

    def __str__(self) -> str:
        return "\n".join([*_layer_rows(self.layers), *_group_rows(self)])


def _layer_rows(layers: Sequence[LayerPlan]) -> list[str]:
    if not layers:
        return ["no adapters"]
    header = ("path", "in x out", "parts", "streams", "execution", "trainable")
    rows = [
        (
            layer.info.path,
            f"{layer.shape[0]} x {layer.shape[1]}",
            str(layer.info.parts),
            " ".join(layer.streams) or "as they come",
            layer.execution,
            f"{layer.trainable:,}",
        )
        for layer in layers
    ]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]


def _group_rows(plan: Plan) -> list[str]:
    rows = [(f"trainable: {name}", count) for name, count in plan.groups.items() if count]
    rows += [("trainable backbone", plan.trainable_backbone), ("trainable total", plan.trainable_total)]
    rows.append(("all parameters", plan.total))
    if plan.upstream_extra:
        rows += [(f"upstream also counts: {name}", count) for name, count in plan.upstream_extra.items()]
        rows += [(f"upstream {name}", count) for name, count in plan.upstream.items()]
    width = max(len(name) for name, _ in rows)
    return ["", *(f"{name.ljust(width)}  {count:>13,}" for name, count in rows)]
