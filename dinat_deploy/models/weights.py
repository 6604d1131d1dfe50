"""A model's weights as named arrays: digest, and building a model from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dinat_deploy.errors import ConfigError
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


def described(config: ModelConfig) -> Model:
    """A model whose weights have shapes and no values: they take no memory."""
    with torch.device("meta"):
        return build(config)


def _fitting(model: Model) -> Model:
    """The same, if there is memory for the weights that it describes.

    Raises:
        ConfigError: there is not.
    """
    needed = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    free = _free_memory()
    if free is not None and needed > free:
        raise ConfigError(
            f"The model's weights take {needed / 1e9:.1f} GB in float32, and {free / 1e9:.1f} GB "
            "of memory are free.",
            "Check embed_dim, depths and num_classes, or use a machine with more memory.",
        )
    return model


def _free_memory() -> int | None:
    """Bytes that can still be allocated, None where that cannot be told."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as stream:
            found = next(line for line in stream if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def empty_model(config: ModelConfig) -> Model:
    """A model in evaluation mode whose weights are allocated but meaningless.

    Raises:
        ConfigError: they would not fit into memory.
    """
    return _fitting(described(config)).to_empty(device="cpu").eval()


def model_from_state(config: ModelConfig, state: Mapping[str, torch.Tensor]) -> Model:
    """A model in evaluation mode with the given weights, all of them."""
    model = described(config)
    model.load_state_dict(dict(state), strict=True, assign=True)
    return model.eval().requires_grad_(False)


def seeded_model(config: ModelConfig, seed: int) -> Model:
    """A model in evaluation mode with made-up weights; see :mod:`dinat_deploy.models.seeding`.

    Raises:
        ConfigError: they would not fit into memory.
    """
    state = _fitting(described(config)).state_dict()
    weights = seeded_weights({name: tuple(value.shape) for name, value in state.items()}, seed)
    return model_from_state(
        config, {k: torch.from_numpy(v).to(state[k].dtype) for k, v in weights.items()}
    )
