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
from data import LABELS, PREPROCESSING, SIDE, load
from rich.console import Console
from rich.progress import Progress

from dinat_deploy.choosing.ablation_training import predict, train
from dinat_deploy.models.config import ModelConfig
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("out/digits-model"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    training, held_out = load()
    images, classes = torch.from_numpy(training.inputs()), torch.from_numpy(training.classes)
    with Progress(console=Console(stderr=True)) as shown:
        task = shown.add_task("Training", total=options.epochs)
        model = train(
            CONFIG,
            images,
            classes,
            epochs=options.epochs,
            seed=options.seed,
            report=lambda epoch: shown.update(task, completed=epoch),
        )
    images, classes = torch.from_numpy(held_out.inputs()), torch.from_numpy(held_out.classes)
    right = (predict(model, images) == classes).float().mean()
    print(f"held-out accuracy: {right:.2%} of {len(classes)} images")

    save_model(options.output, model, CONFIG, PREPROCESSING, LABELS)
    samples = options.output / "samples"
    samples.mkdir(exist_ok=True)
    for number in range(10):
        held_out.pictures[number].save(samples / f"{number}-{LABELS[classes[number]]}.png")
    print(f"saved to {options.output}")


if __name__ == "__main__":
    main()
