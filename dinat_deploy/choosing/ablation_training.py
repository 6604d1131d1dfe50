"""Trains small classifiers from scratch, for the ablation and for ``examples/digits``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.model import DinatModel

_DECAY, _SMOOTHING = 0.05, 0.1
# Pictures are moved by up to this share of their side.
_SHIFT = 1 / 16


def train(
    config: ModelConfig,
    images: Tensor,
    classes: Tensor,
    *,
    epochs: int,
    seed: int,
    rate: float = 2e-3,
    batch: int = 64,
    by_fan_in: bool = False,
    report: Callable[[int], None] = lambda epoch: None,
) -> DinatModel:
    """Train with AdamW, a cosine learning rate and label smoothing.

    The same seed gives the same model on the same machine with the same number of threads. Random
    numbers of the caller are left as they were.

    Args:
        images: float32 ``[N, channels, height, width]``, normalised.
        classes: int64 ``[N]``.
        seed: of the first weights, the order of the images and how they are moved.
        rate: largest learning rate.
        batch: images of a step.
        by_fan_in: begin with Linears as PyTorch makes them. The published beginning, a standard
            deviation of 0.02, is for wide layers; from there, narrow ones take long to learn.
        report: receives the number of epochs that are done.

    Returns:
        The model in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DinatModel(config)
        if by_fan_in:
            for module in model.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()
        steps = epochs * -(-len(images) // batch)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=rate, total_steps=max(2, steps)
        )
        loss_of = nn.CrossEntropyLoss(label_smoothing=_SMOOTHING)
        for epoch in range(epochs):
            model.train()
            for chosen in torch.split(torch.randperm(len(images)), batch):
                optimizer.zero_grad()
                loss_of(model(_shifted(images[chosen])), classes[chosen]).backward()
                optimizer.step()
                schedule.step()
            report(epoch + 1)
    return model.eval()


def predict(model: nn.Module, images: Tensor, batch: int = 256) -> Tensor:
    """The most likely class of every image, int64 ``[N]``.

    Args:
        batch: images of one run.
    """
    with torch.inference_mode():
        return torch.cat([model.eval()(part).argmax(1) for part in torch.split(images, batch)])


def _shifted(images: Tensor) -> Tensor:
    """Each image moved in both directions: scans are not well centred."""
    height, width = images.shape[-2:]
    most = round(_SHIFT * min(height, width))
    padded = nn.functional.pad(images, (most, most, most, most), mode="replicate")
    rows, columns = torch.randint(0, 2 * most + 1, (2, len(images)))
    moved = [
        image[:, row : row + height, column : column + width]
        for image, row, column in zip(padded, rows.tolist(), columns.tolist(), strict=True)
    ]
    return torch.stack(moved)
