"""The machine with a simulated GPU: its Python modules, and a builder of its engines."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

from dinat_deploy.bundle import TensorSpec, is_bundle, open_bundle
from dinat_deploy.engine.builder import PLAN, BuilderOptions, Gpu, PluginLayer
from dinat_deploy.engine.manifest import (
    MANIFEST,
    EngineManifest,
    LayerInfo,
    PlanInfo,
    PluginInfo,
    Runtime,
    Taps,
    onnx_source,
)
from dinat_deploy.engine.profiles import Range
from dinat_deploy.files import sha256
from dinat_deploy.session.tensorrt_api import Flavor
from tests.session.simulator import cuda_runtime, tensorrt
from tests.session.simulator.gpu import SimulatedGpu
from tests.session.simulator.plan import Model, SimulatedPlan

Shapes = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]
_NAMES = {"HALF": "float16", "BF16": "bfloat16"}


class SimulatedMachine:
    """What the fixture gives.

    Attributes:
        gpu: the ledger of all that was allocated, queued and called.
        trt: the stand-in for the module ``tensorrt`` or ``tensorrt_rtx``.
        flavor: which of the two it is.
    """

    def __init__(self, version: str = "10.13.3.9", flavor: Flavor = "tensorrt") -> None:
        self.gpu = SimulatedGpu()
        self.flavor = flavor
        make = tensorrt.make_module if flavor == "tensorrt" else tensorrt.make_rtx_module
        self.trt = make(self.gpu, version)
        self.cuda = cuda_runtime.make_module(self.gpu)

    def modules(self) -> dict[str, ModuleType]:
        """What takes the place of NVIDIA's modules."""
        package, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
        for module in (package, bindings):
            module.__path__ = []
            module.__spec__ = ModuleSpec(module.__name__, None, is_package=True)
        package.bindings, bindings.runtime = bindings, self.cuda  # type: ignore[attr-defined]
        return {
            self.trt.__name__: self.trt,
            "cuda": package,
            "cuda.bindings": bindings,
            "cuda.bindings.runtime": self.cuda,
        }

    def engine(
        self,
        source: Path,
        output: Path,
        *,
        profiles: Sequence[Shapes] = (),
        taps: Mapping[str, str] | None = None,
        taps_kind: Literal["outputs", "debug"] = "outputs",
        plugin: Path | None = None,
        **plan: Any,
    ) -> Path:
        """Write an engine directory.

        Args:
            source: a bundle or an ONNX file.
            output: the directory.
            profiles: of every profile: input -> smallest, best and largest shape. A dynamic model
                needs one.
            taps: PyTorch module -> tensor that the engine lets out.
            plugin: a stand-in for a plugin library that the engine needs, see :meth:`plugin`.
            plan: further fields of :class:`tests.session.simulator.plan.SimulatedPlan`.

        Returns:
            ``output``.
        """
        model = open_bundle(source).model_path if is_bundle(source) else source
        tapped = list((taps or {}).values())
        made = SimulatedPlan(
            onnx=str(model.absolute()),
            version=self.trt.__version__,
            profiles=[
                {name: [list(shape) for shape in shapes] for name, shapes in profile.items()}
                for profile in profiles
            ],
            outputs=tapped if taps_kind == "outputs" else [],
            debug=tapped if taps_kind == "debug" else [],
            plugins=[["NeighborhoodAttention2D", "1", "dinat"]] if plugin else [],
            **plan,
        )
        output.mkdir(parents=True)
        (output / PLAN).write_bytes(made.to_bytes())
        manifest = self._manifest(source, model, output / PLAN, made, plugin, taps, taps_kind)
        (output / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        return output

    def plugin(self, path: Path) -> Path:
        """Write a stand-in for a plugin library, which only the simulated TensorRT can load."""
        path.write_text("NeighborhoodAttention2D 1 dinat\n")
        return path

    def _manifest(
        self,
        source: Path,
        model: Path,
        plan: Path,
        made: SimulatedPlan,
        plugin: Path | None,
        taps: Mapping[str, str] | None,
        taps_kind: Literal["outputs", "debug"],
    ) -> EngineManifest:
        loaded = Model(made)
        attention = [
            node.name for node in loaded.nodes if node.op_type.startswith("NeighborhoodAttention2D")
        ]
        return EngineManifest(
            model=open_bundle(source).manifest.name if is_bundle(source) else None,
            runtime=Runtime(flavor=self.flavor, version=self.trt.__version__),
            architectures=["89"],
            gpu=Gpu(name="NVIDIA Simulated 4090", capability="89", driver="13.0"),
            host_code=["an embedded plugin"] if made.host_code else [],
            precision="float32",
            inputs=[_spec(loaded, name) for name in loaded.inputs],
            outputs=[_spec(loaded, name) for name in loaded.outputs],
            profiles=[
                {
                    name: Range(min=tuple(low), opt=tuple(best), max=tuple(high))
                    for name, (low, best, high) in profile.items()
                }
                for profile in made.profiles
            ],
            options=BuilderOptions(),
            onnx=onnx_source(model, ()),
            plugin=PluginInfo(
                operators=["NeighborhoodAttention2D"],
                namespace="dinat",
                version="1",
                library=plugin.name,
                library_version=None,
                sha256=sha256(plugin),
                embedded=made.host_code,
            )
            if plugin
            else None,
            layers=LayerInfo(
                types={"simulated": len(loaded.nodes)},
                plugin=[PluginLayer(node=n, dtype="float32") for n in attention if plugin],
                body=[] if plugin else attention,
            ),
            taps=Taps(kind=taps_kind, tensors=dict(taps)) if taps else None,
            plan=PlanInfo(file=PLAN, sha256=sha256(plan), bytes=plan.stat().st_size),
        )

    def check(self) -> None:
        """Raise AssertionError unless all was freed and nothing undefined was done."""
        if self._alive() or self.gpu.leaks():
            gc.collect()  # objects in cycles, such as of a traceback; slow beside PyTorch
        assert not self.gpu.violations, self.gpu.violations
        assert not self.gpu.leaks(), self.gpu.leaks()
        assert not self._alive(), f"not destroyed: {self._alive()}"

    def _alive(self) -> dict[str, int]:
        return {kind: count for kind, count in self.trt.world.alive.items() if count}


def _spec(model: Model, name: str) -> TensorSpec:
    dtype = _NAMES.get(model.types[name], model.types[name].lower())
    shape = [size if size >= 0 else "?" for size in model.shapes[name]]
    return TensorSpec(name=name, dtype=dtype, shape=shape)


@pytest.fixture
def simulated_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedMachine]:
    """A machine with a GPU, cuda-python and TensorRT 10.13, all simulated."""
    yield from _use(SimulatedMachine(), monkeypatch)


@pytest.fixture
def simulated_rtx(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedMachine]:
    """The same with TensorRT-RTX 1.7 in place of TensorRT."""
    yield from _use(SimulatedMachine("1.7.1.116", "tensorrt-rtx"), monkeypatch)


def _use(machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedMachine]:
    for name in [name for name in sys.modules if name.split(".")[0] in ("cuda", "pycuda")]:
        monkeypatch.delitem(sys.modules, name)
    for name, module in machine.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    yield machine
    machine.check()
