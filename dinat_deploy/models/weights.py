"""A model's weights as named arrays: digest, and building a model from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from dinat_deploy.models.building import Model, build
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.seeding import seeded_weights

FloatArray = npt.NDArray[np.float32]


def digest(weights: Mapping[str, FloatArray]) -> str:
    """SHA-256 over names, shapes and float32 values, independent of the order."""
    total = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name], np.float32)
        total.update(f"{name} {list(array.shape)}\n".encode())
        total.update(array.data)
    return total.hexdigest()


def empty_model(config: ModelConfig) -> Model:
    """A model in evaluation mode whose weights are allocated but meaningless."""
    with torch.device("meta"):
        model = build(config)
    return model.to_empty(device="cpu").eval()


def model_from_state(config: ModelConfig, state: Mapping[str, torch.Tensor]) -> Model:
    """A model in evaluation mode with the given weights, all of them."""
    with torch.device("meta"):
        model = build(config)
    model.load_state_dict(dict(state), strict=True, assign=True)
    return model.eval().requires_grad_(False)


def seeded_model(config: ModelConfig, seed: int) -> Model:
    """A model in evaluation mode with made-up weights; see :mod:`dinat_deploy.models.seeding`."""
    with torch.device("meta"):
        state = build(config).state_dict()
    weights = seeded_weights({name: tuple(value.shape) for name, value in state.items()}, seed)
    return model_from_state(
        config, {k: torch.from_numpy(v).to(state[k].dtype) for k, v in weights.items()}
    )
