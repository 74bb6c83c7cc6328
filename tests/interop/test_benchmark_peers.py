"""The plain PyTorch DiTASK of the benchmarks computes what this package does: times are of like for like."""

import jax
import numpy as np
import pytest
import torch

from benchmarks import torch_peers
from benchmarks.ours import Ours
from ditask_jax.config import load_config
from ditask_jax.nn.linear import linears
from ditask_jax.nn.state import flatten, split_state
from ditask_jax.training.experiment import build_model

SMALL = ["batch_size=2", "image_size=32", "backbone.drop_path_rate=0.0", "method.dropout=0.0"]


def both(peer: str):
    """Our model and the peer with equal weights and equal, random thetas."""
    config = load_config("configs/smoke.py", SMALL)
    ours = Ours(config, cache=False)
    outputs = {task.name: task.num_outputs for task in ours.tasks}
    cells = config.method.shared_cells, config.method.task_cells
    options = {"cells": cells, "drop_path_rate": 0.0, "dropout": 0.0, "examples": 2}
    shape = ours.model.backbone.config
    bare = flatten(split_state(build_model(config)).trainable)
    model = torch_peers.build(peer, shape, 32, outputs, config.head.widths, options, bare)
    rng = np.random.default_rng(0)
    for layer, theirs in zip(linears(ours.model.backbone), _in_order(model), strict=True):
        if theirs is None:
            continue
        for name, theta in zip(dict.fromkeys(layer.adapter.names), theirs.thetas, strict=True):
            value = 0.3 * rng.standard_normal(theta.shape).astype(np.float32)
            theta.data.copy_(torch.from_numpy(value))
            getattr(layer.adapter, name)[...] = jax.numpy.asarray(value)
    return ours, model


def _in_order(model):
    """Adapted layers in the order of ours; None for patch merging."""
    body = model.backbone
    for stage, blocks in enumerate(body.stages):
        for block in blocks:
            yield from (block.qkv, block.proj, block.fc1, block.fc2)
        if stage < len(body.mergings):
            yield None


@pytest.fixture(autouse=True)
def gradients():
    """The other tests here need none and have them switched off."""
    with torch.enable_grad():
        yield


@pytest.mark.parametrize("peer", ["ditask", "ditask_weights"])
def test_loss_and_gradients_agree(peer):
    ours, model = both(peer)
    parts = split_state(ours.model)
    ours.parts = parts
    value, gradients = jax.value_and_grad(ours.loss())(*ours.values, ours.batch, ours.key)
    images, labels = torch_peers.tensors(ours.batch, ours.model.mean, ours.model.std)
    weights = {task.name: task.loss_weight for task in ours.tasks}
    model.train()
    loss = torch_peers.total_loss(model(images), labels, weights)
    loss.backward()
    assert float(loss) == pytest.approx(float(value), rel=1e-5)
    mine = flatten(gradients)
    theirs = [theta.grad.numpy() for theta in torch_peers.thetas(model)]
    names = [
        f"{layer.info.path}/adapter/{name}"
        for layer in linears(ours.model.backbone)
        if layer.adapter is not None
        for name in dict.fromkeys(layer.adapter.names)
    ]
    largest = max(np.abs(gradient).max() for gradient in theirs)
    assert len(names) == len(theirs)
    assert largest > 0
    for name, gradient in zip(names, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(mine[name]), gradient, atol=2e-4 * largest, err_msg=name)
    assert torch_peers.trainable_count(model) == ours.plan.trainable_total


@pytest.mark.parametrize("peer", ["full", "lora"])
def test_the_other_peers_take_a_step(peer):
    config = load_config("configs/smoke.py", [*SMALL, "image_size=64"])
    ours = Ours(config, cache=False)
    outputs = {task.name: task.num_outputs for task in ours.tasks}
    options = {"cells": (4, 4), "drop_path_rate": 0.1, "dropout": 0.0, "examples": 2}
    model = torch_peers.build(peer, ours.model.backbone.config, 64, outputs, config.head.widths, options)
    images, labels = torch_peers.tensors(ours.batch, ours.model.mean, ours.model.std)
    weights = {task.name: task.loss_weight for task in ours.tasks}
    step = torch_peers.make_step(model, images, labels, weights, config.optimizer)
    assert 0 < step() < 100
    torch_peers.make_forward(model, images)()
