"""Steps under way: the next one is handed to the devices before the metrics of the present one have come back."""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ditask_jax.training.distributed import StopSignal
from ditask_jax.training.sharding import place_whole, replicated, spread_flag
from ditask_jax.training.step import Turn

DEPTH = 2
"""Steps that are under way at once."""


@dataclasses.dataclass
class Step:
    """A step that was handed to the devices.

    Attributes:
      number: of the step, counted from 0.
      batch: as it was read.
      placed: the same on the devices.
      counter: the number on the devices.
      read: seconds that its batch was waited for.
      begun: when it was handed over, or the step before was finished, whichever was later (`time.perf_counter`).
      metrics: of the step, on the devices until it is finished.
    """

    number: int
    batch: Mapping
    placed: Any
    counter: jax.Array
    read: float
    begun: float = 0.0
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)


class InFlight:
    """The steps under way, in their order.

    A step whose numbers are not finite halts those behind it: until `again` is called they leave the state as it is.
    A process's wish to stop goes into the next step, which tells all processes: they see it in the same step's metrics.

    Args:
      take: maps a `Step` and its `Turn` to the metrics of the step; it advances the training state.
      mesh: of the training.
      stop: whether this process was asked to stop.
      pauses: whether a step (counted from 1) must be finished before the next one is begun.

    Attributes:
      stopping: whether a finished step told that some process was asked to stop.
    """

    def __init__(self, take: Callable[[Step, Turn], dict], mesh: Mesh, stop: StopSignal, pauses: Callable[[int], bool]):
        self._take, self._stop, self._pauses = take, stop, pauses
        # On the devices once: a step must not wait for copies.
        self._flags = {flag: spread_flag(flag, mesh) for flag in (False, True)}
        self._going = place_whole(np.bool_(False), replicated(mesh))
        self._halted = self._going
        self._steps: collections.deque[Step] = collections.deque()
        self._finished = 0.0
        self.stopping = False

    @property
    def _has_room(self) -> bool:
        """Whether another step may begin now."""
        if not self._steps:
            return True
        return len(self._steps) < DEPTH and not self._stops and not self._pauses(self._steps[-1].number + 1)

    @property
    def _stops(self) -> bool:
        # A process on its own has nobody to agree with, and need not wait for a step to say so.
        return self.stopping or (jax.process_count() == 1 and self._stop.asked)

    @property
    def ends(self) -> bool:
        """Whether to stop now: somebody asked for it, and no step is under way any more."""
        return self._stops and not self._steps

    def steps(self, following: Callable[[int], tuple], start: int, total: int) -> Iterator[Step]:
        """Takes steps, and gives them finished, one after another.

        Args:
          following: gives of every step the batch as read, and on the devices, and the step's number there. An error
            that it raises waits until the steps before are done.
          start, total: steps done before, and in all.
        """
        number, lost = start, None
        while self._steps or number < total:
            if self._has_room and number < total and lost is None:
                begin = time.perf_counter()
                try:
                    found = following(number)
                except Exception as error:  # whatever it is: raised below, behind the steps under way
                    lost = error
                else:
                    step = Step(number, *found, read=time.perf_counter() - begin)
                    self._steps.append(step)
                    self._dispatch(step)
                    number += 1
                    continue
            if lost is not None and not self._steps:
                raise lost
            yield self._finish()

    def _dispatch(self, step: Step) -> None:
        step.begun = time.perf_counter()
        step.metrics = self._take(step, Turn(step.counter, self._flags[self._stop.asked], self._halted))
        self._halted = step.metrics["halted"]

    def _finish(self) -> Step:
        """Waits for the oldest step, and gives it with its metrics on the host."""
        step = self._steps.popleft()
        step.metrics = jax.device_get(step.metrics)
        step.begun, self._finished = max(step.begun, self._finished), time.perf_counter()
        del step.metrics["halted"]
        self.stopping |= bool(step.metrics.pop("stop"))
        return step

    def again(self) -> None:
        """Takes the steps again that a step just finished has halted."""
        self._halted = self._going
        for step in self._steps:
            self._dispatch(step)
