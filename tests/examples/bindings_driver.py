"""Runs a plan of the TensorRT stand-in through TensorRT's own Python bindings, in a process of its own.

python bindings_driver.py BINDINGS.so PLAN PLUGIN PIXELS LOGITS      (the last two float32)

The libraries that the bindings need are found on LD_LIBRARY_PATH: they are the stand-ins. So this
calls the stand-in by the virtual tables that TensorRT's makers compiled into the bindings.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np


def load(bindings: Path) -> Any:
    spec = importlib.util.spec_from_file_location(bindings.stem, bindings)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(trt: Any, plan: bytes, plugin: str, pixels: np.ndarray) -> np.ndarray:
    logger = trt.Logger(trt.Logger.WARNING)
    runtime = trt.Runtime(logger)
    assert runtime.deserialize_cuda_engine(b"no plan") is None  # logs
    assert not runtime.engine_host_code_allowed
    runtime.engine_host_code_allowed = True
    assert runtime.engine_host_code_allowed
    assert runtime.num_DLA_cores == 0
    assert runtime.get_plugin_registry().load_library(plugin)
    engine = runtime.deserialize_cuda_engine(plan)

    assert [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)] == ["image", "logits"]
    assert engine.get_tensor_mode("image") == trt.TensorIOMode.INPUT
    assert engine.get_tensor_mode("logits") == trt.TensorIOMode.OUTPUT
    assert engine.get_tensor_dtype("image") == trt.float32
    assert engine.get_tensor_location("image") == trt.TensorLocation.DEVICE
    assert engine.num_optimization_profiles == 2
    least, _, largest = engine.get_tensor_profile_shape("image", 1)
    assert (least[0], largest[0]) == (4, 8)

    context = engine.create_execution_context()
    stream = ctypes.c_void_p()
    cuda = ctypes.CDLL("libcuda.so.1")
    cuda.cuCtxSetCurrent(ctypes.c_void_p(1))
    assert cuda.cuStreamCreate(ctypes.byref(stream), 1) == 0
    assert context.set_optimization_profile_async(1, stream.value)
    assert context.set_input_shape("image", pixels.shape)
    logits = np.empty(tuple(context.get_tensor_shape("logits")), np.float32)
    memory = {"image": ctypes.c_uint64(), "logits": ctypes.c_uint64()}
    for name, array in (("image", pixels), ("logits", logits)):
        assert cuda.cuMemAlloc_v2(ctypes.byref(memory[name]), ctypes.c_size_t(array.nbytes)) == 0
        assert context.set_tensor_address(name, memory[name].value)
    host = [ctypes.c_void_p(array.ctypes.data) for array in (pixels, logits)]
    cuda.cuMemcpyHtoDAsync_v2(memory["image"], host[0], ctypes.c_size_t(pixels.nbytes), stream)
    assert context.execute_async_v3(stream.value)
    cuda.cuMemcpyDtoHAsync_v2(host[1], memory["logits"], ctypes.c_size_t(logits.nbytes), stream)
    assert cuda.cuStreamSynchronize(stream) == 0
    for address in memory.values():
        cuda.cuMemFree_v2(address)
    cuda.cuStreamDestroy_v2(stream)
    return logits


def main() -> None:
    bindings, plan, plugin, pixels, logits = sys.argv[1:]
    values = np.fromfile(pixels, np.float32).reshape(5, 3, 4, 4)
    run(load(Path(bindings)), Path(plan).read_bytes(), plugin, values).tofile(logits)


if __name__ == "__main__":
    main()
