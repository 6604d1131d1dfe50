"""Train a small DiNAT with UPerNet on made-up scenes and save it as a model directory.

    python examples/shapes/train.py --output out/shapes-model
    dinat-deploy export --checkpoint out/shapes-model --output out/shapes --dynamic batch
    python examples/shapes/data.py --output out/shapes-data
    dinat-deploy infer --bundle out/shapes out/shapes-data/images/0000.png

Takes about four minutes of one CPU core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from data import HELD_OUT, LABELS, PREPROCESSING, SIDE, TRAINING, scenes
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from dinat_deploy.evaluation.metrics import SegmentationCounter
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import UPerNet
from dinat_deploy.models.model_card import save_model
from dinat_deploy.models.upernet import SegmentationModel, resize

CONFIG = ModelConfig(
    embed_dim=32,
    depths=(2, 2, 2),
    num_heads=(2, 4, 8),
    kernel_size=3,
    dilations=((1, 4), (1, 2), (1, 1)),
    mlp_ratio=2.0,
    num_classes=len(LABELS),
    image_size=(SIDE, SIDE),
    decoder=UPerNet(
        channels=48, pool_scales=(1, 2, 4), dropout=0.0, auxiliary_channels=32, auxiliary_level=1
    ),
)
BATCH = 16
LEARNING_RATE = 3e-3
HELD_OUT_SCENES = 200
# Most pixels are background, and a model that says so of all of them is slow to learn more.
CLASS_WEIGHTS = torch.tensor([0.3] + [1.0] * (len(LABELS) - 1))
AUXILIARY_WEIGHT = 0.4


def load(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Scenes as the model's input, float32 ``[count, 3, SIDE, SIDE]``, and the classes of their
    pixels, int64 ``[count, SIDE, SIDE]``."""
    pictures, masks = scenes(seed, count)
    images = np.stack([PREPROCESSING(picture) for picture in pictures])
    return torch.from_numpy(images), torch.from_numpy(masks)


def mean_iou(model: nn.Module, images: Tensor, masks: Tensor) -> float:
    """Mean intersection over union of the classes (0..1) at the size of the pictures."""
    counter = SegmentationCounter()
    with torch.inference_mode():
        for number, chosen in enumerate(torch.arange(len(images)).split(50)):
            logits = model.eval()(images[chosen]).numpy()
            counter.add(number, logits, masks[chosen].numpy())
    found = counter.scores().miou
    assert found is not None
    return found


def turned(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The batch mirrored and turned by a multiple of 90 degrees, at random."""
    times = int(torch.randint(0, 4, ()))
    images, masks = images.rot90(times, (2, 3)), masks.rot90(times, (1, 2))
    return (images.flip(3), masks.flip(2)) if torch.rand(()) < 0.5 else (images, masks)


def loss_of(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the classes at the size of the mask ``[B, SIDE, SIDE]``."""
    return F.cross_entropy(resize(logits, mask.shape[1:]), mask, CLASS_WEIGHTS)


def train(images: Tensor, masks: Tensor, epochs: int, seed: int) -> SegmentationModel:
    """A model trained from scratch with AdamW and a learning rate of one cycle."""
    torch.manual_seed(seed)
    model = SegmentationModel(CONFIG)
    steps = epochs * -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in track(range(epochs), "Training", console=Console(stderr=True)):
        model.train()
        for chosen in torch.randperm(len(images)).split(BATCH):
            image, mask = turned(images[chosen], masks[chosen])
            logits, auxiliary = model.forward_training(image)
            assert auxiliary is not None
            loss = loss_of(logits, mask) + AUXILIARY_WEIGHT * loss_of(auxiliary, mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("out/shapes-model"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    model = train(*load(TRAINING, options.scenes), options.epochs, options.seed)
    score = mean_iou(model, *load(HELD_OUT, HELD_OUT_SCENES))
    print(f"held-out mIoU: {score:.2%} of {HELD_OUT_SCENES} scenes")
    save_model(options.output, model, CONFIG, PREPROCESSING, LABELS)
    print(f"saved to {options.output}")


if __name__ == "__main__":
    main()
