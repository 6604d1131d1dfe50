"""The device that the pages' ``sh`` blocks are for: a GPU with TensorRT, simulated.

Engines are "built" from the ONNX file at once and computed by ONNX Runtime
(tests/session/simulator); everything around them is the product's own code. So what the commands
print has the form that it has on a device, and made-up figures.
"""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest

from dinat_deploy import native
from dinat_deploy.bundle import TensorSpec
from dinat_deploy.engine import checks, devices, plugin_choice, tensorrt, tensorrt_rtx
from dinat_deploy.engine.builder import BuildOutcome, BuildTask, EngineLayer, Gpu, PluginLayer
from dinat_deploy.progress import Progress
from dinat_deploy.session.tensorrt_api import Flavor
from tests.session.simulator.machine import SimulatedMachine
from tests.session.simulator.plan import ATTENTION, Model, SimulatedPlan

# The name that the simulated driver gives.
DESKTOP = Gpu(name="NVIDIA Simulated 4090", capability="89", driver="13.0", memory=24 << 30)
VERSIONS: dict[Flavor, str] = {"tensorrt": "10.13.3.9", "tensorrt-rtx": "1.7.1.116"}


@contextmanager
def simulated_device(
    place: Path, flavor: Flavor = "tensorrt", gpu: Gpu = DESKTOP
) -> Iterator[SimulatedMachine]:
    """A machine with this GPU, a TensorRT, a CUDA binding and the plugin library.

    Args:
        place: directory for the stand-in of the plugin library and for the user's data.
    """
    machine = SimulatedMachine(VERSIONS[flavor], flavor)
    libraries = place / "native"
    libraries.mkdir(exist_ok=True)
    machine.plugin(libraries / "libdinat_tensorrt.so")

    def build(worker: str, task: BuildTask, progress: Progress, *_: Any) -> BuildOutcome:
        return _build(machine, gpu, task, progress)

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] in ("cuda", "pycuda")]:
            patch.delitem(sys.modules, name)
        for name, module in machine.modules().items():
            patch.setitem(sys.modules, name, module)
        patch.setattr(devices, "gpus", lambda: [gpu])
        patch.setattr(tensorrt, "run_build", build)
        patch.setattr(tensorrt_rtx, "run_build", build)
        # The version that is simulated, whatever is installed.
        for module in (tensorrt, tensorrt_rtx, checks):
            patch.setattr(module, "installed_version", VERSIONS.__getitem__)
        # The stand-in for the library is no shared library, which the tables of one would show.
        patch.setattr(plugin_choice, "machine", lambda _: platform.machine())
        patch.setattr(native, "machine", lambda _: platform.machine())
        patch.setenv("DINAT_NATIVE_DIR", str(libraries))
        patch.setenv("XDG_DATA_HOME", str(place / "data"))
        patch.setenv("DINAT_CACHE_DIR", str(place / "cache"))
        yield machine


def _build(
    machine: SimulatedMachine, gpu: Gpu, task: BuildTask, progress: Progress
) -> BuildOutcome:
    """What the worker does: a plan, and an account of it."""
    with progress.stage("Building the engine"):
        made = SimulatedPlan(
            onnx=str(task.model),
            version=machine.trt.__version__,
            profiles=[
                {name: [list(s) for s in (r.min, r.opt, r.max)] for name, r in profile.items()}
                for profile in task.profiles
            ],
            outputs=task.extra_outputs,
            debug=task.debug_tensors,
            plugins=[["NeighborhoodAttention2D", "1", "dinat"]] if task.plugin else [],
        )
        task.plan.write_bytes(made.to_bytes())
        model = Model(made)
    attention = [node.name for node in model.nodes if node.op_type.startswith(ATTENTION)]
    weights = {
        tensor.data_type
        for tensor in onnx.load(task.model, load_external_data=False).graph.initializer
    }
    kind = "float16" if onnx.TensorProto.FLOAT16 in weights else "float"
    return BuildOutcome(
        version=machine.trt.__version__,
        gpu=gpu,
        engine_layers=[EngineLayer(name=node.name, kind="kgen") for node in model.nodes],
        timing_cache_hits=False if task.timing_cache else None,
        inputs=[_spec(model, name) for name in model.inputs],
        outputs=[_spec(model, name) for name in model.outputs],
        layers=dict(Counter(node.op_type.lower() for node in model.nodes).most_common()),
        plugin_layers=[PluginLayer(node=name, dtype=kind) for name in attention if task.plugin],
        body_nodes=[] if task.plugin else attention,
        parse_seconds=0.4,
        build_seconds=31.7,
        peak_memory=2_100_000_000,
        warnings=[],
    )


def _spec(model: Model, name: str) -> TensorSpec:
    shape = [size if size >= 0 else "?" for size in model.shapes[name]]
    return TensorSpec(name=name, dtype=model.types[name].lower(), shape=shape)
