"""Operator and model cases computed by NATTEN and by the original model code (the oracle).

``op/cases.json`` and ``op/*.npz`` were computed by NATTEN 0.17.5 on the CPU; ``model/*/orig_logits``
by the original DiNAT repository on NATTEN 0.15.1, ``model/*/hf_logits`` by transformers 4.49 on
NATTEN 0.17.4. Weights and inputs of the models are regenerated from their seeds
(``dinat_deploy.models.seeding``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
ROOT = Path(__file__).parent


@dataclass(frozen=True)
class OpCase:
    """One operator case; arrays are heads-last ``[B, H, W, heads, dim]``."""

    name: str
    kernel_size: tuple[int, int]
    dilation: tuple[int, int]
    scale: float
    query: FloatArray
    key: FloatArray
    value: FloatArray
    rpb: FloatArray | None
    output: FloatArray

    @property
    def num_heads(self) -> int:
        return self.query.shape[-2]

    @property
    def qkv(self) -> FloatArray:
        """The packed layout ``[B, H, W, 3*heads*dim]``."""
        stacked = np.stack([self.query, self.key, self.value], axis=3)
        return stacked.reshape(*self.query.shape[:3], -1)

    @property
    def packed_output(self) -> FloatArray:
        return self.output.reshape(*self.output.shape[:3], -1)


@cache
def op_case_names() -> list[str]:
    return [Path(case["file"]).stem for case in _op_table()]


@cache
def _op_table() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((ROOT / "op" / "cases.json").read_text())["cases"]
    return cases


def op_case(name: str) -> OpCase:
    entry = next(case for case in _op_table() if Path(case["file"]).stem == name)
    with np.load(ROOT / "op" / f"{name}.npz") as arrays:
        heads_last = {key: arrays[key].transpose(0, 2, 3, 1, 4) for key in ("q", "k", "v", "out")}
        return OpCase(
            name,
            tuple(entry["kernel"]),
            tuple(entry["dilation"]),
            entry["scale"],
            heads_last["q"],
            heads_last["k"],
            heads_last["v"],
            arrays["rpb"] if entry["rpb"] else None,
            heads_last["out"],
        )


@dataclass(frozen=True)
class ModelCase:
    """One golden model: constructor arguments, seed, parameter shapes, logits by input shape."""

    name: str
    kwargs: dict[str, Any]
    seed: int
    shapes: dict[str, list[int]]
    logits: dict[str, dict[str, FloatArray]]


MODEL_NAMES = ("a_k7", "b_k5", "dinat_mini")


def model_case(name: str) -> ModelCase:
    folder = ROOT / "model" / name
    config = json.loads((folder / "config.json").read_text())
    logits = {}
    for source in ("orig", "hf"):
        with np.load(folder / f"{source}_logits.npz") as arrays:
            logits[source] = {key: arrays[key] for key in arrays.files}
    shapes = json.loads((folder / "orig_shapes.json").read_text())
    return ModelCase(name, config["kwargs"], config["seed"], shapes, logits)


def input_shape(key: str) -> tuple[int, ...]:
    return tuple(int(size) for size in key.split("x"))
