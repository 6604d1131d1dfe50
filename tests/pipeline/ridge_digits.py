"""A classifier of digits in a second: random layers of DiNAT, and a last one fitted by least squares."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from dinat_deploy.data.digits import LABELS
from dinat_deploy.data.opening import open_dataset
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.model import DinatModel
from dinat_deploy.models.model_card import save_model
from dinat_deploy.models.preprocessing import Preprocessing

CONFIG = ModelConfig(
    embed_dim=16,
    depths=(1, 1),
    num_heads=(2, 4),
    kernel_size=3,
    dilations=((1,), (1,)),
    mlp_ratio=2.0,
    num_classes=10,
    in_channels=1,
    image_size=(32, 32),
)
PREPROCESSING = Preprocessing(
    resize_mode="stretch", resize=(32, 32), crop=(32, 32), mean=(0.3,), std=(0.35,)
)
_EXAMPLE = Path(__file__).parents[2] / "examples" / "digits" / "outlier.py"


def example() -> ModuleType:
    """``examples/digits/outlier.py``"""
    spec = spec_from_file_location("outlier", _EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save(directory: Path, images: int = 300) -> Path:
    """Write a model directory."""
    torch.manual_seed(0)
    model = DinatModel(CONFIG).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Larger than a model starts with, so that the layers make a difference.
            if name.endswith("weight") and parameter.ndim == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
    data = open_dataset("digits:train", PREPROCESSING, limit=images)
    samples = [data.load(index) for index in range(len(data))]
    features: list[torch.Tensor] = []
    model.head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.inference_mode():
        model(torch.from_numpy(np.stack([sample.image for sample in samples])))
    x = features[0].double().numpy()
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    wanted = np.eye(10)[[sample.label for sample in samples]]
    fitted = np.linalg.solve(x.T @ x + 1e-3 * len(x) * np.eye(x.shape[1]), x.T @ wanted)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(fitted[:-1].T))
        model.head.bias.copy_(torch.from_numpy(fitted[-1]))
    return save_model(directory, model, CONFIG, PREPROCESSING, LABELS)


def with_outlier(model: Path, output: Path, *options: object) -> Path:
    """Run ``examples/digits/outlier.py``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["outlier.py", *map(str, (model, output, *options))])
        example().main()
    return output
