"""The training loop: restore or start, step, log, evaluate, save; and again after a kill as if nothing had happened."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ditask_jax.config import to_json, validate
from ditask_jax.data import eval_batches, train_batches
from ditask_jax.errors import CheckpointError, ConfigError, optional
from ditask_jax.files import atomic_write_json
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.state import state_parts
from ditask_jax.plots.example_images import draw_predictions, write_examples
from ditask_jax.tasks import Task, load_references
from ditask_jax.training.checkpoints import Checkpointer, saved_if_it_fails
from ditask_jax.training.distributed import StopSignal, agree, is_first, own_rows, share, wait_for_all
from ditask_jax.training.evaluation import (
    Evaluation,
    check_best_metric,
    evaluate,
    predictions,
    score_table,
    scores_record,
)
from ditask_jax.training.experiment import (
    build_augmentation,
    build_experiment,
    build_source,
    experiment_from,
    moved_to_host,
    training_length,
)
from ditask_jax.training.in_flight import InFlight, Step
from ditask_jax.training.manifest import fingerprint
from ditask_jax.training.metrics_log import RunLog, asked_for, check_logging
from ditask_jax.training.nonfinite import Guard, describe, make_diagnosis
from ditask_jax.training.optim.group_rates import Movement, schedules_of, settled
from ditask_jax.training.optim.method_hooks import method_hooks
from ditask_jax.training.optim.optimizer import make_clip, make_optimizer
from ditask_jax.training.prefetch import Prefetch, Watchdog
from ditask_jax.training.profiling import Window, peak_memory, traced
from ditask_jax.training.progress import Progress
from ditask_jax.training.run_folder import RunDir
from ditask_jax.training.sharding import (
    check_batch_size,
    frozen_shardings,
    make_mesh,
    place_batch,
    place_whole,
    replicated,
)
from ditask_jax.training.step import Turn, make_eval_step, make_gradients, make_predict, make_train_step, passage_of
from ditask_jax.training.trackers import make_spectra

FIGURE_EXAMPLES = 4
_STATE = ("trainable", "opt_state", "stats")


class Trainer:
    """Trains and evaluates one configuration.

    Everything a configuration can get wrong is found while the trainer is built, before the first step. There are two
    ways to build one: `Trainer(config)`, which makes the model too, and `Trainer(model, tasks, config)`.

    Args:
      model: a wrapped model from `create_model`; its facts replace those of the configuration. Over several devices its
        arrays become NumPy's, so that the device which it was made on keeps no second copy.
      tasks: the tasks it was created for.
      config: a configuration, for example from `load_config`.

    Attributes:
      experiment: tasks, model, plan.
      total_steps, steps_per_epoch: length of training.
      state: (trainable, opt_state, stats) on the mesh, after `fit` or `restore`.
    """

    def __init__(
        self,
        model: MultiTaskModel | ConfigDict | None = None,
        tasks: Sequence[Task] | None = None,
        config: ConfigDict | None = None,
    ):
        if isinstance(model, ConfigDict):
            model, config = None, model
        if config is None:
            raise ConfigError("trainer: no configuration; call Trainer(config) or Trainer(model, tasks, config)")
        given = None if model is None else experiment_from(model, tasks or (), config)
        config = config if given is None else given.config
        validate(config)
        self.config = config = settled(config)
        self.mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
        self.eval_batch_size = config.eval_batch_size or config.batch_size
        check_batch_size("config: batch_size", config.batch_size, self.mesh, config.optimizer.accumulate)
        check_batch_size("config: eval_batch_size", self.eval_batch_size, self.mesh)
        # Data first: a missing file is found in a moment, a model takes seconds.
        self.train_source = build_source(config, "train")
        self.eval_source = build_source(config, "val")
        self.experiment = given or build_experiment(config, host=self.mesh.size > 1)
        config = self.config = self.experiment.config  # weights from a hub are recorded in it
        if self.mesh.size > 1:
            # A device must hold no more than its share: the model waits on the host, and its arrays are placed once.
            self.experiment = moved_to_host(self.experiment)
        self.tasks = self.experiment.tasks
        self.steps_per_epoch, self.total_steps = training_length(config, len(self.train_source))
        parts, dtype = self.experiment.parts, self.experiment.dtype
        warmed = schedules_of(config.optimizer, self.steps_per_epoch, self.total_steps, config.batch_size)
        self.schedule, declared = warmed(None), parts.declared
        self.optimizer = make_optimizer(config.optimizer, self.schedule, declared, warmed)
        self._movement = Movement(declared, config.optimizer, warmed)
        hooks = method_hooks(parts, self.steps_per_epoch, make_clip(config.optimizer))
        options = config.seed, dtype, config.optimizer.surgery, passage_of(config), hooks
        self._train_step = make_train_step(parts, self.tasks, self.optimizer, self.mesh, *options)
        self._diagnose = make_diagnosis(make_gradients(parts, self.tasks, self.mesh, *options))
        self._eval_step = make_eval_step(parts, self.tasks, self.mesh, dtype)
        self._spectra = make_spectra(parts, self.mesh)
        self._predict = jax.jit(make_predict(parts, dtype, self.mesh), out_shardings=replicated(self.mesh))
        self.frozen = place_whole(parts.frozen, frozen_shardings(self.mesh, parts.frozen))
        self.state = self._initial_state()
        self.step = 0
        self.stopped = False
        self._scored: tuple[int, Evaluation] | None = None
        self._skipped = 0  # steps left out, over all starts of the run

    def _place(self, tree):
        return place_whole(tree, replicated(self.mesh))

    def _initial_state(self) -> tuple:
        parts = self.experiment.parts
        # A copy: the step donates its state, and the model taken apart must stay usable.
        trainable, stats = jax.tree.map(np.array, (parts.trainable, parts.stats))
        return tuple(self._place(tree) for tree in (trainable, self.optimizer.init(trainable), stats))

    def fingerprint(self) -> str:
        """A hash of the frozen weights: a checkpoint belongs to one backbone."""
        return fingerprint(self.frozen)

    def restore(self, checkpointer: Checkpointer) -> int:
        """Loads the newest checkpoint that verifies; returns its step, 0 where there is none.

        Raises:
          CheckpointError: it was trained on other frozen weights.
        """
        found = checkpointer.restore_latest_verified(dict(zip(_STATE, self.state, strict=True)), replicated(self.mesh))
        if found is None:
            agree("checkpoint", "step 0", "every process must see the same --workdir, on a shared file system")
            return 0
        self.step, state, meta = found
        if meta.get("backbone") != self.fingerprint():
            raise CheckpointError(
                f"checkpoint: step {self.step} in '{checkpointer.directory}' was trained on other frozen weights; "
                "put back the weight file it was started with"
            )
        self.state = tuple(state[name] for name in _STATE)
        self._scored = None
        self._skipped = meta.get("skipped", 0)
        agree("checkpoint", f"step {self.step}", "every process must see the same --workdir, on a shared file system")
        return self.step

    def fit(self, workdir: str | Path, profile: Window | None = None) -> tuple:
        """Trains to the end, resuming from the newest checkpoint of the folder; evaluates last.

        On SIGTERM the steps under way are finished, the last one is saved, and `stopped` is set.

        Args:
          workdir: folder of the run.
          profile: steps to trace, into `profile/` of the folder.

        Returns:
          The final state (trainable, opt_state, stats).

        Raises:
          CheckpointError: another training is at work in the folder, or it belongs to another configuration.
        """
        check_logging(self.config)
        if profile is not None:
            profile.check(self.total_steps)
        run = RunDir(workdir)
        main = is_first()
        keeping = self.config.checkpoint
        best = keeping.best_metric
        saving = {"best_mode": keeping.best_mode}
        with run.claimed(self.config), Checkpointer(run.checkpoints, keeping.keep, best, **saving) as checkpointer:
            start = self.restore(checkpointer)
            # Frozen weights do not change: hashed once here, not at every save.
            meta = {"backbone": self.fingerprint(), "weights": self.config.backbone.weights}
            agree("configuration", to_json(self.config), "start every process by the same command")
            agree("backbone", meta["backbone"], "give every process the same weight file")
            progress = Progress(
                self.total_steps,
                self.config.batch_size,
                start_step=start,
                log_every_steps=self.config.log_every_steps,
                active=main,
            )
            for step, reason in checkpointer.rejected:
                progress.message(f"passed over the checkpoint of step {step}: {reason}")
            if start:
                progress.message(f"resuming from step {start} of {self.total_steps}")
            guard = Guard(self.config.on_nonfinite, run.nonfinite, self._skipped, checkpointer.latest)
            stop = StopSignal()
            flight = InFlight(self._take, self.mesh, stop, lambda step: self._pauses_after(step, profile))
            steps = self._steps(start, progress, guard, flight)
            if main and profile is not None:
                steps = traced(steps, profile, start, run.profile, progress.message)
            with contextlib.closing(steps), self._log(run, start) as writer, stop:

                def save(step: int, metrics: Mapping) -> None:
                    writer.flush()
                    self._skipped, state = guard.skipped, dict(zip(_STATE, self.state, strict=True))
                    checkpointer.save(step, state, meta | {"skipped": guard.skipped}, metrics)

                for step, metrics in steps:
                    checkpointer.poll()
                    due = self._evaluation_due(step)
                    writer.write(step, metrics)
                    if due:
                        with progress.pause(), saved_if_it_fails(lambda step=step: save(step, {})):
                            evaluation = self.evaluate()
                            writer.write(step, evaluation.metrics())
                            self._show(run, writer, step)
                    self.stopped = flight.ends and step < self.total_steps
                    if step == self.total_steps or self.stopped or self._checkpoint_due(step) or (due and best):
                        with progress.pause():
                            save(step, evaluation.metrics() if due else {})
                    if due:  # what was trained is saved by now
                        check_best_metric(best, evaluation)
                    if self.stopped:
                        progress.message(f"stopped at step {step} and saved; run the same command to resume")
                        break
            progress.end_line()
        # The first process saves: one that left before would be taken for a failure, and all would be ended.
        wait_for_all()
        return self.state

    def _log(self, run: RunDir, start: int) -> RunLog:
        devices = list(self.mesh.devices.flat)
        # A finished run that is asked for again has nothing to log.
        active = is_first() and start < self.total_steps
        return RunLog(run, self.config, self.tasks, start, self.steps_per_epoch, devices, active=active)

    def _show(self, run: RunDir, log: RunLog, step: int) -> None:
        """Images of an evaluation on the way, in the folder and in the logs; the last one's are drawn by `report`."""
        sinks = asked_for(self.config)
        if sinks or step < self.total_steps:
            path = run.figures / f"step_{step:06d}.png"
            with optional(f"figure {path}"):
                log.picture(step, "panels/val", self.draw(path))
        if sinks:
            trainable, _, stats = self.state
            log.spectra(step, jax.device_get(self._spectra(trainable, stats, self.frozen)))

    def _steps(self, start: int, progress: Progress, guard: Guard, flight: InFlight) -> Iterator[tuple[int, dict]]:
        """Takes the remaining steps; yields the number of steps done and the metrics of the last one."""
        if start >= self.total_steps:
            return
        watchdog = Watchdog(self.config.data.stall_seconds, self._stalled(progress))
        with self._batches(start) as batches, self._fetching(batches, start) as fetched, watchdog:

            def following(number: int) -> tuple:
                with watchdog.waiting(f"batch {number} (step {number + 1})"):
                    return next(fetched)

            for step in flight.steps(following, start, self.total_steps):
                self.step = step.number + 1
                yield self.step, self._values(step, progress, guard, flight)

    def _take(self, step: Step, turn: Turn) -> dict:
        """Advances the state by a step; where it is to be logged, with how far it moves each group."""
        due = (step.number + 1) % self.config.log_every_steps == 0
        before = self._movement.copy(self.state[0]) if due else {}
        *state, metrics = self._train_step(*self.state, self.frozen, step.placed, turn)
        self.state = tuple(state)
        return metrics | ({"moved": (before, self._movement.copy(self.state[0]))} if due else {})

    def _values(self, step: Step, progress: Progress, guard: Guard, flight: InFlight) -> dict:
        """What is logged of a finished step; one that was not finite ends the training or is left out."""
        metrics, number = step.metrics, step.number
        moved = metrics.pop("moved", None)
        seconds = time.perf_counter() - step.begun
        if metrics.pop("finite"):
            guard.passed()
        else:
            # Steps behind it have left the state as it was, too.
            trainable, _, stats = self.state
            found = jax.device_get(self._diagnose(trainable, stats, self.frozen, step.placed, step.counter))
            progress.message(guard.failed(number + 1, describe(*found), step.batch))
            flight.again()
        values = {f"train/{name}": float(value) for name, value in metrics.items()}
        # The optimiser's own count stands still where a step is left out.
        values["train/learning_rate"] = float(self.schedule(number - guard.skipped))
        if moved is not None:
            values |= self._movement.rates(number - guard.skipped) | self._movement.ratios(*moved)
        if guard.policy == "skip":
            values["train/skipped"] = guard.skipped
        memory = peak_memory(self.mesh.local_devices)
        progress.update(number + 1, {"loss": values["train/loss"]}, *memory.values())
        return values | {"time/read": step.read, "time/step": seconds} | memory

    def _batches(self, start: int):
        data = self.config.data
        return train_batches(
            self.train_source,
            [task.label_spec for task in self.tasks],
            self.config.image_size,
            self.config.batch_size,
            self.config.seed,
            build_augmentation(self.config),
            start_step=start,
            threads=data.threads,
            workers=data.workers,
            **share(),
        )

    def _fetching(self, batches: Iterator[Mapping], start: int) -> Prefetch[tuple]:
        """Of every step the batch as read, and the arguments made of it."""

        def fetch(number: int) -> tuple:
            batch = next(batches)
            return batch, *self._inputs(batch, number)

        return Prefetch(fetch, start, self.total_steps)

    def _inputs(self, batch: Mapping, number: int) -> tuple:
        placed = place_batch({name: batch[name] for name in ("image", "labels", "valid")}, self.mesh)
        return placed, self._place(np.int32(number))

    def lower_step(self) -> tuple[Any, tuple]:
        """The program of a step, not compiled yet, and its arguments for the first one; it donates those of the state.

        For programs that try a configuration (`preflight`); `fit` does not need it.
        """
        with self._batches(0) as batches:
            arguments = (*self.state, self.frozen, *self._inputs(next(batches), 0))
        return self._train_step.lower(*arguments), arguments

    def _stalled(self, progress: Progress):
        data = self.config.data
        where = f"'{data.name}'" + (f" in {data.root}" if data.root else "")
        remedy = f"look at the storage, or raise data.threads ({data.threads}) or data.workers ({data.workers})"
        return lambda what, seconds: progress.message(f"{what}: {seconds:.0f} s waiting for {where}; {remedy}")

    def _evaluation_due(self, step: int) -> bool:
        every, epochs = self.config.eval_every_steps, self.config.eval_every_epochs
        if every is None and epochs is not None:
            every = max(round(epochs * self.steps_per_epoch), 1)
        return step == self.total_steps or bool(every and step % every == 0)

    def _checkpoint_due(self, step: int) -> bool:
        every = self.config.checkpoint_every_steps
        return bool(every and step % every == 0)

    def _pauses_after(self, step: int, profile: Window | None) -> bool:
        """Whether the state of a step is looked at before the next one may change it, or a trace begins or ends."""
        edges = () if profile is None else (profile.first - 1, profile.last)
        return self._evaluation_due(step) or self._checkpoint_due(step) or step in edges

    def evaluate(self, state: tuple | None = None) -> Evaluation:
        """Scores a state over the whole validation split; the present one, asked twice at one step, at once.

        Args:
          state: as `fit` returns it; None: the present one.
        """
        present = state is None or state is self.state
        if present and self._scored is not None and self._scored[0] == self.step:
            return self._scored[1]
        trainable, stats = state_parts(self.state if state is None else state)
        found = evaluate(
            self._eval_step,
            (trainable, stats, self.frozen),
            self.eval_source,
            self.tasks,
            self.config.image_size,
            self.eval_batch_size,
            self.mesh,
            load_references(self.config.data.name),
            self.config.data.threads,
            build_augmentation(self.config).for_evaluation(),
            original_size=self.config.eval_resolution == "original",
        )
        if present:
            self._scored = (self.step, found)
        return found

    def draw(self, path: Path, examples: Path | None = None) -> Path:
        """Draws targets and predictions of the first validation examples.

        Args:
          path: the figure.
          examples: folder for a file per image, which a report can show one by one; None: none are written.
        """
        specs = [task.label_spec for task in self.tasks]
        size, augmentation = self.config.image_size, build_augmentation(self.config).for_evaluation()
        # The first process draws, so that it needs the rows of the others too; the others only lend their devices.
        rows = {} if is_first() else share()
        with eval_batches(
            self.eval_source, specs, size, self.eval_batch_size, threads=1, augmentation=augmentation, **rows
        ) as batches:
            batch = next(batches)
        shown = min(FIGURE_EXAMPLES, int(batch["valid"].sum()))
        trainable, _, stats = self.state
        own = own_rows(batch["image"]) if is_first() else batch["image"]
        placed = place_batch({"image": own}, self.mesh)
        predicted = predictions(self._predict, (trainable, stats, self.frozen), placed, self.tasks)
        if not is_first():
            return path
        if examples is not None:
            with optional(f"images in {examples}"):
                write_examples(examples, batch, predicted, self.tasks, self.step)
        cut = lambda tree: {name: value[:shown] for name, value in tree.items()}
        title = f"{self.config.method.name} on {self.config.data.name}, step {self.step}"
        return draw_predictions(path, batch["image"][:shown], cut(batch["labels"]), cut(predicted), self.tasks, title)

    def report(
        self,
        run: RunDir,
        evaluation: Evaluation,
        file: Path | None = None,
        say: Callable[[str], Any] = lambda line: None,
    ) -> str:
        """Writes the scores, then the figure, which a run can do without; returns the table and where they are.

        Args:
          run: the folder.
          evaluation: of the present state.
          file: of the scores; None: `evaluation.json` of the folder.
          say: called with the table and each file as soon as it is there, by the first process.
        """
        file, lines = file or run.evaluation, []

        def tell(line: str) -> None:
            lines.append(line)
            if say is not None and is_first():
                say(line)

        with run.scoring(waiting=True):
            if is_first():
                atomic_write_json(file, scores_record(evaluation, self.step, self.config, self.experiment.plan))
            tell(score_table(evaluation, self.tasks))
            tell(f"scores: {file}")
            figure = run.figures / "evaluation.png"
            with optional(f"figure {figure}"):
                tell(f"figure: {self.draw(figure, run.examples)}")
        return "\n".join(lines)
