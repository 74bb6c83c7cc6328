"""Builds our model from a multi-task golden file and reads its arrays under our names."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.adapters import wrap
from ditask_jax.backbones.swin import Swin, SwinConfig
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn import Context, Scope, flatten, split_state, unflatten
from ditask_jax.nn.state import statistics
from ditask_jax.tasks import create_tasks, multi_task_loss
from ditask_jax.weights import assign
from tests.parity.golden import Golden, size
from tests.parity.methods import method_of, translate, translated


class Case:
    """A golden multi-task model: ours, wrapped and filled, and its state taken apart."""

    def __init__(self, golden: Golden, execution: str = "auto"):
        meta = golden.meta
        self.golden, self.meta = golden, meta
        entries = [SimpleNamespace(name=name, num_outputs=meta["num_output"][name]) for name in meta["tasks"]]
        config = SwinConfig(
            meta["embed_dim"],
            tuple(meta["depths"]),
            tuple(meta["heads"]),
            window=meta["window"],
            mlp_ratio=int(meta.get("mlp_ratio", 4)),
        )
        backbone = Swin(config, size(meta["img"]), meta["drop_path"], Scope(path="backbone"))
        model = MultiTaskModel(backbone, entries, "hrnet", meta["decoder_channels"], (0, 0, 0), (1, 1, 1), Scope())
        arrays = translated(golden.under("param/"), meta["kind"])
        plain = {path: array for path, array in arrays.items() if "/adapter/" not in path}
        assign(model, plain, golden.path.name)
        self.plan = wrap(model, method_of(meta, execution))
        self.parts = split_state(model)
        trainable = flatten(self.parts.trainable)
        for path in trainable:
            if "/adapter/" in path:
                trainable[path] = jnp.asarray(arrays[path])
        self.trainable = unflatten(trainable, self.parts.trainable)
        self.images = jnp.asarray(golden["in/x"].transpose(0, 2, 3, 1))
        self.labels = {name: _label(name, golden[f"in/gt/{name}"]) for name in meta["tasks"]}
        self.tasks = tuple(_task(name, meta) for name in meta["tasks"])

    def ours(self, name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
        """A golden parameter or gradient under our name and in our layout."""
        path, turn = translate(name, self.meta["kind"])
        return path, turn(array)

    def outputs(self, trainable, frozen, train: bool = False):
        """Features, neck outputs, final logits and new statistics."""
        model = self.parts.merge(trainable, frozen, self.parts.stats)
        context = Context(train=train, key=jax.random.key(0))
        features = model.features(self.images, context)
        necks = {name: model.necks[name](features[name], context) for name in model.task_names}
        final = model.decode(features, self.images.shape[1:3], context)
        return features, necks, final, statistics(model)

    def loss(self, trainable, weights, frozen, train: bool = False):
        """`weights . (simple, mtl)`: one compiled program gives both losses and both gradients.

        Frozen weights are an argument, as in training; as constants they would be computed with while compiling.
        """
        features, necks, final, stats = self.outputs(trainable, frozen, train)
        simple = sum(jnp.mean(logits**2) for logits in final.values())
        total, losses = multi_task_loss(self.tasks, final, self.labels)
        aux = {"features": features, "necks": necks, "final": final, "stats": stats}
        return weights[0] * simple + weights[1] * total, aux | {"simple": simple, "mtl": total, "losses": losses}

    @functools.cached_property
    def evaluated(self):
        """`(aux, {"simple": gradient, "mtl": gradient})` in evaluation mode."""
        step = jax.jit(jax.value_and_grad(self.loss, has_aux=True))
        (_, aux), simple = step(self.trainable, jnp.array([1.0, 0.0]), self.parts.frozen)
        _, mtl = step(self.trainable, jnp.array([0.0, 1.0]), self.parts.frozen)
        return aux, {"simple": flatten(simple), "mtl": flatten(mtl)}


def _task(name: str, meta: dict):
    """Our task with the file's number of outputs and weight."""
    task = create_tasks(name, dataset="scenes")[0]
    return dataclasses.replace(task, num_outputs=meta["num_output"][name], loss_weight=meta["loss_weights"][name])


def _label(name: str, label: np.ndarray):
    """NCHW to ours: uint8 `[B, H, W]`, float32 `[B, H, W]` for depth, `[B, H, W, 3]` for normals."""
    if name == "normals":
        return jnp.asarray(label.transpose(0, 2, 3, 1), jnp.float32)
    return jnp.asarray(label[:, 0])
