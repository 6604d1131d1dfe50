"""Reproducible made-up weights and images, for exporting and testing without a checkpoint.

Fresh initial weights would hide mistakes: biases are zero, a layer scale of 1e-5 switches every
layer off, a positional bias of 0.02 hardly matters. These weights make every tensor count and keep
activations in range. Each tensor is drawn from its own generator, keyed by (seed, name), so that
the numbers depend neither on the order of parameters nor on the PyTorch version.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

# Learned vectors that are added to or read like features, and so are as large.
_TABLES = ("queries_embedder.weight", "queries_features.weight", "level_embed.weight")
# Of matrices, the first that fits, where values as large as a fresh Linear gives would hide
# something: query-key products, so that attention is not uniform; logits of boxes, so that some
# classes are likely.
_GAINS = ((".attn.qkv.", 2.0), (".fc_cls.", 4.0))


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def seeded_tensor(name: str, shape: Sequence[int], seed: int) -> npt.NDArray[np.float32]:
    """Made-up values of one parameter, float32 of ``shape``.

    Args:
        name: parameter name in the original repository's checkpoints; it decides the
            distribution (norm weights and running variances around 1, layer scales around 0.5,
            matrices scaled by their fan-in).
    """
    drawn = _generator(seed, name).standard_normal(tuple(shape))
    leaf = name.rsplit(".", 1)[-1]
    if leaf.startswith("gamma"):
        drawn = 0.5 + 0.2 * drawn
    elif leaf in ("bias", "in_proj_bias", "running_mean"):
        drawn = 0.2 * drawn
    elif leaf == "running_var":
        drawn = np.exp(0.3 * drawn)
    elif leaf == "num_batches_tracked":
        drawn = np.ones(tuple(shape))
    elif leaf == "weight" and len(shape) == 1:  # of a normalization
        drawn = 1.0 + 0.2 * drawn
    elif leaf in ("weight", "in_proj_weight") and not name.endswith(_TABLES):
        gain = next((gain for part, gain in _GAINS if part in name), 1.0)
        drawn = gain * drawn / np.sqrt(int(np.prod(shape[1:])))
    return drawn.astype(np.float32)


def seeded_weights(
    shapes: Mapping[str, Sequence[int]], seed: int
) -> dict[str, npt.NDArray[np.float32]]:
    """Made-up weights for every parameter in ``shapes`` (name -> shape)."""
    return {name: seeded_tensor(name, shape, seed) for name, shape in shapes.items()}


def seeded_image(shape: Sequence[int], seed: int) -> npt.NDArray[np.float32]:
    """A made-up normalised image batch, standard normal float32 of ``[B, C, H, W]``."""
    name = "image" + "x".join(str(size) for size in shape)
    return _generator(seed, name).standard_normal(tuple(shape)).astype(np.float32)
