"""A simulated GPU with CUDA and TensorRT on it, for tests of everything that runs engines.

Import the fixture where it is used (or in a ``conftest.py``)::

    from tests.session.simulator import SimulatedMachine, simulated_gpu

    def test_something(simulated_gpu: SimulatedMachine, tiny_bundle: Path, tmp_path: Path) -> None:
        engine = simulated_gpu.engine(tiny_bundle, tmp_path / "engine")
        ...  # dinat_deploy finds a GPU, cuda-python and TensorRT, and can open the engine

``simulated_rtx`` is the same with TensorRT-RTX. While the fixture is active, ``import tensorrt`` and ``import cuda.bindings.runtime`` give the
stand-ins, in this process only. An engine is a directory with ``model.plan`` and ``engine.json``
whose plan points to an ONNX file, which runs in ONNX Runtime when the "GPU" comes to it. At the end
of the test the fixture fails it if anything was leaked, or done that CUDA or TensorRT leaves
undefined (see :mod:`tests.session.simulator.gpu`).
"""

from tests.session.simulator.machine import SimulatedMachine, simulated_gpu, simulated_rtx

__all__ = ["SimulatedMachine", "simulated_gpu", "simulated_rtx"]
