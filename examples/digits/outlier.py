"""Make a model hard to quantize without changing what it computes.

    python examples/digits/outlier.py out/digits-model out/outlier-model
    dinat-deploy export --checkpoint out/outlier-model --output out/outlier --dynamic batch
    dinat-deploy calibrate out/outlier --data digits:train --precision none
    dinat-deploy sensitivity out/outlier --data digits:train --max-drop 0.5 --output out/found

One channel behind a LayerNorm becomes hundreds of times as large as the others, and the linear
layer that reads it takes it that much less. Large transformers grow such channels by themselves.
With one scale for the whole tensor, INT8 has hardly a level left for all other channels.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

# Layers that read a norm: part of a block -> (norm, linear layer).
PARTS = {"attn": ("norm1", "attn.qkv"), "mlp": ("norm2", "mlp.fc1")}


def inject(
    state: dict[str, np.ndarray], block: str, part: str, channel: int, factor: float
) -> dict[str, np.ndarray]:
    """Weights of the same function in which a channel of an activation is larger.

    Args:
        state: names as in the checkpoint.
        block: such as ``levels.1.blocks.0``.
        part: ``attn`` or ``mlp``.
        channel: of the norm's output.
        factor: how much larger. A power of two is divided out again without rounding.
    """
    norm, linear = (f"{block}.{name}" for name in PARTS[part])
    changed = {name: state[name].copy() for name in state}
    for name in (f"{norm}.weight", f"{norm}.bias"):
        changed[name][channel] *= factor
    changed[f"{linear}.weight"][:, channel] /= factor
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="directory written by train.py")
    parser.add_argument("output", type=Path, help="directory for the changed model")
    parser.add_argument("--block", default="levels.1.blocks.0")
    parser.add_argument("--part", choices=PARTS, default="attn")
    parser.add_argument("--channel", type=int, default=5)
    parser.add_argument("--factor", type=float, default=512)
    options = parser.parse_args()

    state = load_file(options.model / "model.safetensors")
    changed = inject(state, options.block, options.part, options.channel, options.factor)
    shutil.copytree(options.model, options.output, dirs_exist_ok=True)
    save_file(changed, options.output / "model.safetensors")
    norm, linear = PARTS[options.part]
    print(
        f"channel {options.channel} of {options.block}.{norm} is {options.factor:g} times as "
        f"large; {options.block}.{linear} takes it that much less"
    )


if __name__ == "__main__":
    main()
