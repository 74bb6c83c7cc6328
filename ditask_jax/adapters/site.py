"""A dense layer as a method sees it when it plans: where it stands, and which streams may run through it."""

import dataclasses
from collections.abc import Sequence

from ditask_jax.nn.linear import SHARED, USUAL_ROLES, LayerInfo, Linear, Roles

# Of the backbones in the package, and the defaults of options.
ROLES = USUAL_ROLES.order


@dataclasses.dataclass(frozen=True)
class Site:
    """What a method may know of one dense layer.

    Attributes:
      info: where the layer stands.
      shape: (in, out).
      tasks: names of the tasks, in order.
      examples: images per step, for cost rules.
      stages: number of stages of the backbone.
      blocks_behind: blocks between this one and the end of its stage; None where nothing reads the stage.
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


def sites(layers: Sequence[Linear], tasks: Sequence[str], examples: int, roles: Roles = USUAL_ROLES) -> list[Site]:
    """The sites of all dense layers of a backbone."""
    infos = [layer.info for layer in layers]
    stages = 1 + max((info.stage for info in infos), default=-1)
    # A block that ends a stage nobody reads does not say so: no stream needs to leave there.
    ends = {info.stage: info.block for info in infos if info.last_in_stage and info.role in roles.order}

    def site(layer: Linear) -> Site:
        info = layer.info
        behind = ends[info.stage] - info.block if info.role in roles.order and info.stage in ends else None
        shape = (layer.inputs, layer.outputs)
        return Site(info, shape, tuple(tasks), examples, stages, behind, info.stage == stages - 1, roles)

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

    def ends_shared(self, site: Site) -> bool:
        """Whether no layer behind this one reads the shared stream."""
        if not site.last_stage:
            return False
        return not self.reads_shared or (site.info.last_in_model and site.info.role == self._order(site)[-1])

    def _order(self, site: Site) -> list[str]:
        return [role for role in site.roles.order if role in self.layers and role in site.roles.task]

    def _is_first_block(self, site: Site) -> bool:
        return site.info.block == 0 or site.blocks_behind == self.blocks - 1
