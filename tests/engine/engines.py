"""Engines on disk whose plan is made up, for tests of what is checked before one is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.engine.builder import BuilderOptions, Gpu, PluginLayer
from dinat_deploy.engine.manifest import (
    Engine,
    EngineManifest,
    LayerInfo,
    PlanInfo,
    PluginInfo,
    Runtime,
    onnx_source,
    open_engine,
)
from dinat_deploy.engine.profiles import parse_profile
from dinat_deploy.files import sha256

PLAN = b"ftrt" + bytes(range(250)) * 4
RTX = Runtime(flavor="tensorrt-rtx", version="1.7.1.116")
FULL = Runtime(flavor="tensorrt", version="10.13.3.9", platform="Linux x86_64")
A4000 = Gpu(name="NVIDIA RTX A4000", capability="86", driver="13.0")


def model_in(folder: Path) -> Path:
    """An ONNX file with weights beside it, of which only the digests matter."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(b"an ONNX file")
    (folder / "model.onnx.data").write_bytes(b"weights")
    return path


def library_in(folder: Path) -> Path:
    path = folder / "libdinat_tensorrt.so"
    # The header of a shared library for 64-bit Linux; tests look no further.
    path.write_bytes(b"\x7fELF\x02\x01".ljust(18, b"\0") + b"\x3e\0")
    return path


def write_engine(
    folder: Path, model: Path, library: Path | None = None, plan: bytes = PLAN, **changes: Any
) -> Engine:
    """An engine for RTX 30 and 40 that calls the plugin, if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.plan"
    file.write_bytes(plan)
    plugin = library and PluginInfo(
        operators=["NeighborhoodAttention2D"], namespace="dinat", version="1",
        library=library.name, library_version="0.1.0", sha256=sha256(library), embedded=False,
    )  # fmt: skip
    became = [PluginLayer(node="a", dtype="float16")]
    layers = LayerInfo(types={"plugin_v3": 1}, plugin=became, body=[])
    content: dict[str, Any] = {
        "model": "dinat_mini",
        "runtime": RTX,
        "architectures": ["86", "89"],
        "precision": "float16",
        "inputs": [TensorSpec(name="image", dtype="float", shape=["batch", 3, 64, 64])],
        "outputs": [TensorSpec(name="logits", dtype="float", shape=["batch", 10])],
        "profiles": [parse_profile("image=1x3x64x64:2x3x64x64:4x3x64x64")],
        "options": BuilderOptions(optimization_level=2),
        "onnx": onnx_source(model, ("model.onnx.data",)),
        "plugin": plugin,
        "layers": layers,
        "plan": PlanInfo(file="model.plan", sha256=sha256(file), bytes=len(plan)),
    }
    (folder / "engine.json").write_text(EngineManifest(**content | changes).to_json())
    return open_engine(folder)
