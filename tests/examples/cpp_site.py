"""A bundle and an engine for the C++ runner, and running it on the stand-ins.

The engine's plan is one linear layer (``examples/cpp/tests/stand_in_tensorrt.cpp``), so what the
program should print is a product in numpy. Both manifests are written by the package's own classes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dinat_deploy.bundle import GraphInfo, Manifest, TensorSpec, Weights
from dinat_deploy.engine.builder import BuilderOptions, Gpu
from dinat_deploy.engine.manifest import (
    EngineManifest,
    LayerInfo,
    OnnxSource,
    PlanInfo,
    PluginInfo,
    Runtime,
)
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.preprocessing import Preprocessing, open_image
from tests.conftest import TINY

CLASSES = 7
NETWORK = TINY.replace(num_classes=CLASSES)
VERSIONS = {"10": "10.3.0.26", "11": "11.1.0.106", "rtx": "1.7.1.116"}
GPU = "Stand-in GPU"
HOW = Preprocessing(resize=(18, 18), crop=(12, 16))
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class Site:
    """What a user has: a folder with pictures and a bundle, and in that an engine.

    Attributes:
        which: TensorRT of the engine: ``10``, ``11`` or ``rtx``.
        dtype: of the engine's input and output, but for an input of pixels.
        pixels: whether the engine takes pixels.
        batch: of its input, or ``batch``.
        profiles: least and largest batch of each.
        manifest: what of ``engine.json`` is not as usual, by field.
        environment: variables for the program.
    """

    folder: Path
    build: Path
    which: str = "11"
    dtype: str = "float32"
    pixels: bool = False
    batch: int | str = 1
    profiles: Sequence[tuple[int, int]] = ()
    needs_plugin: bool = False
    host_code: bool = False
    labels: list[str] | None = field(default_factory=lambda: [f"class-{i}" for i in range(CLASSES)])
    config: ModelConfig = NETWORK
    preprocessing: Preprocessing = HOW
    classes: int = CLASSES
    scale: float = 0.02
    extra: bytes = b""
    manifest: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(7)
        how = self.preprocessing
        self.shape = (len(how.mean), *how.crop)
        inputs = int(np.prod(self.shape))
        self.weights = (self.scale * rng.standard_normal((self.classes, inputs))).astype(np.float32)
        self.bundle = self.folder / "bundle"
        self.engine = self.bundle / "engines" / "mine"
        self.engine.mkdir(parents=True, exist_ok=True)
        self.plan = self._plan()
        (self.engine / "model.plan").write_bytes(self.plan)
        (self.engine / "engine.json").write_text(self._engine().to_json())
        (self.bundle / "model.json").write_text(self._model().to_json())

    # ---- What lies there -------------------------------------------------------------------------

    def _plan(self) -> bytes:
        batch = -1 if isinstance(self.batch, str) else self.batch
        size = " ".join(map(str, self.shape))
        lines = [f"input image {'uint8' if self.pixels else self.dtype} {batch} {size}"]
        lines.append(f"output logits {self.dtype} {self.classes}")
        lines += [f"profile {low} {size} {high} {size}" for low, high in self.profiles]
        lines += [f"plugin {int(self.needs_plugin)}", f"host_code {int(self.host_code)}"]
        text = "\n".join(["stand-in plan", *lines, "end"]) + "\n"
        return text.encode() + self.weights.tobytes() + self.extra

    def _specs(self) -> tuple[list[TensorSpec], list[TensorSpec]]:
        image = TensorSpec(name="image", dtype="float", shape=[self.batch, *self.shape])
        return [image], [TensorSpec(name="logits", dtype="float", shape=[self.batch, self.classes])]

    def _model(self) -> Manifest:
        inputs, outputs = self._specs()
        return Manifest(
            name="tiny",
            config=self.config,
            weights=Weights(source="checkpoint", origin="here", sha256="1" * 64),
            preprocessing=self.preprocessing,
            labels=self.labels,
            graph=GraphInfo(
                sha256="a" * 64, opset=18, ir_version=10, body=True, op_nodes=3,
                inputs=inputs, outputs=outputs,
            ),
        )  # fmt: skip

    def _engine(self) -> EngineManifest:
        inputs, outputs = self._specs()
        if self.pixels:
            inputs = [inputs[0].model_copy(update={"dtype": "uint8"})]
        flavor = "tensorrt-rtx" if self.which == "rtx" else "tensorrt"
        system = f"{platform.system()} {platform.machine()}"
        usual: dict[str, Any] = {
            "model": "tiny",
            "runtime": Runtime(flavor=flavor, version=VERSIONS[self.which], platform=system),
            "architectures": ["89"],
            "gpu": None if flavor == "tensorrt-rtx" else Gpu(name=GPU, capability="89"),
            "precision": self.dtype,
            "inputs": inputs,
            "outputs": outputs,
            "profiles": [],
            "options": BuilderOptions(),
            "onnx": OnnxSource(file="model.onnx", sha256="a" * 64),
            "plugin": None,
            "layers": LayerInfo(types={}, plugin=[], body=[]),
            "plan": PlanInfo(file="model.plan", sha256=sha256(self.plan), bytes=len(self.plan)),
        }
        return EngineManifest(**{**usual, **self.manifest})

    def picture(self, seed: int, size: tuple[int, int] = (40, 60)) -> Path:
        path = self.folder / f"picture {seed}.png"
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    # ---- What is expected ------------------------------------------------------------------------

    def expected(self, pictures: Sequence[Path]) -> np.ndarray:
        """Softmax probabilities ``[pictures, classes]``, in the types of the engine."""
        how = self.preprocessing.pixels if self.pixels else self.preprocessing
        images = np.stack([how(open_image(path)) for path in pictures])
        rounded = images.reshape(len(pictures), -1).astype(np.float32)
        rounded = rounded if self.pixels else self._rounded(rounded)
        logits = rounded.astype(np.float64) @ self.weights.T.astype(np.float64)
        logits = self._rounded(logits.astype(np.float32)).astype(np.float64)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def _rounded(self, values: np.ndarray) -> np.ndarray:
        return torch.from_numpy(values).to(_DTYPES[self.dtype]).float().numpy()

    # ---- Running ---------------------------------------------------------------------------------

    def run(
        self, *arguments: str | Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the program on the engine; nothing may be left allocated, whatever happens."""
        return self.run_bare("--engine", self.engine, *arguments, environment=environment)

    def run_bare(
        self, *arguments: str | Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        leaks = self.folder / "leaks"
        leaks.unlink(missing_ok=True)
        done = subprocess.run(
            [self.build / "dinat_run", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **self._environment(), "STAND_IN_LEAKS": str(leaks)}
            | (dict(environment) if environment else {}),
        )
        assert done.returncode in (0, 2), done.stderr  # the sanitizers exit with 1
        left = leaks.read_text() if leaks.exists() else ""
        assert set(left.replace("\n", " ").split()) <= {
            "device=0", "host=0", "streams=0", "events=0", "contexts=0", "tensorrt=0"
        }, left  # fmt: skip
        return done

    def _environment(self) -> dict[str, str]:
        rtx = self.which == "rtx"
        return {
            "LD_LIBRARY_PATH": str(self.build / ("stand_ins/rtx" if rtx else "stand_ins")),
            "XDG_DATA_HOME": str(self.folder / "data"),
            **({"STAND_IN_VERSION": VERSIONS["rtx"]} if rtx else {}),
            **self.environment,
        }

    def classify(self, *arguments: str | Path) -> dict[str, Any]:
        """Run it with ``--json``; it must succeed."""
        done = self.run("--json", *arguments)
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def refused(self, *arguments: str | Path, **environment: str) -> str:
        """What the program says instead of running: cause and cure, as JSON and as text alike."""
        done = self.run("--json", *arguments, environment=environment)
        assert done.returncode == 2, done.stdout
        error = json.loads(done.stdout)["error"]
        said = [line for line in done.stderr.splitlines() if not line.startswith("Note: ")]
        assert "\n".join(said) == "\n       ".join(
            [f"Error: {error['cause']}", *([error["cure"]] if error["cure"] else [])]
        )
        return f"{error['cause']} {error['cure']}"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def plugin_info(library: Path, *, embedded: bool = False) -> PluginInfo:
    """The record of a plugin library."""
    return PluginInfo(
        operators=["NeighborhoodAttention2D"],
        namespace="dinat",
        version="1",
        library=library.name,
        library_version=None,
        sha256=sha256(library.read_bytes()),
        embedded=embedded,
    )
