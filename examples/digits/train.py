"""Train a tiny DiNAT on handwritten digits and save it as a model directory.

    python examples/digits/train.py --output out/digits-model
    dinat-deploy export --checkpoint out/digits-model --output out/digits --dynamic batch
    dinat-deploy infer --bundle out/digits out/digits-model/samples/*.png
    python examples/digits/evaluate.py out/digits-model out/digits

Takes a minute or two on two CPU cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from data import LABELS, PREPROCESSING, SIDE, Split, load
from rich.console import Console
from rich.progress import track
from torch import nn

from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.model import DinatModel
from dinat_deploy.models.model_card import save_model

CONFIG = ModelConfig(
    embed_dim=32,
    depths=(2, 2),
    num_heads=(2, 4),
    kernel_size=3,
    dilations=((1, 2), (1, 1)),
    mlp_ratio=2.0,
    drop_path_rate=0.05,
    num_classes=10,
    in_channels=1,
    image_size=(SIDE, SIDE),
)
BATCH = 64


def accuracy(model: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> float:
    """Share of images whose largest logit is their class (0..1)."""
    with torch.inference_mode():
        return (model.eval()(images).argmax(1) == classes).float().mean().item()


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Each image moved by up to two pixels: the scans are not well centred."""
    padded = nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
    rows, columns = torch.randint(0, 5, (2, len(images)))
    moved = [
        image[:, row : row + SIDE, column : column + SIDE]
        for image, row, column in zip(padded, rows.tolist(), columns.tolist(), strict=True)
    ]
    return torch.stack(moved)


def train(data: Split, epochs: int, seed: int) -> DinatModel:
    """A model trained from scratch with AdamW and a cosine learning rate."""
    torch.manual_seed(seed)
    model = DinatModel(CONFIG)
    images, classes = torch.from_numpy(data.inputs()), torch.from_numpy(data.classes)
    steps = epochs * -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    for _ in track(range(epochs), "Training", console=Console(stderr=True)):
        model.train()
        for chosen in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            loss_of(model(shifted(images[chosen])), classes[chosen]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("out/digits-model"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    training, held_out = load()
    model = train(training, options.epochs, options.seed)
    images, classes = torch.from_numpy(held_out.inputs()), torch.from_numpy(held_out.classes)
    print(f"held-out accuracy: {accuracy(model, images, classes):.2%} of {len(classes)} images")

    save_model(options.output, model, CONFIG, PREPROCESSING, LABELS)
    samples = options.output / "samples"
    samples.mkdir(exist_ok=True)
    for number in range(10):
        held_out.pictures[number].save(samples / f"{number}-{LABELS[classes[number]]}.png")
    print(f"saved to {options.output}")


if __name__ == "__main__":
    main()
