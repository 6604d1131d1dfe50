"""Run a TensorRT-RTX plan on the GPU and compare it with recorded outputs of PyTorch.

    python -m tests.gpu.rtx_engine model.plan reference.npz [--plugin libdinat_tensorrt.so]

A process of its own, because TensorRT may end it. Prints one JSON object: ``outcome`` is ``ran`` or
``refused``; then ``stage`` says where and ``messages`` hold TensorRT's own words. ``errors`` are the
largest differences of each output from PyTorch, relative to its largest value. Needs torch, NumPy
and tensorrt-rtx, and nothing of the package.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

Cases = dict[str, dict[str, dict[str, np.ndarray]]]
TORCH_TYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}


def read_cases(path: Path) -> Cases:
    """``{case: {"in" or "out": {tensor: array}}}`` of a bundle's ``reference.npz``."""
    cases: Cases = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            case, side, tensor = key.split("/", 2)
            cases.setdefault(case, {"in": {}, "out": {}})[side][tensor] = archive[key]
    return cases


def difference(found: np.ndarray, expected: np.ndarray) -> float | None:
    """Relative to the largest expected value; None if shapes differ or a value is no number."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return None
    largest = float(np.abs(expected).max()) or 1.0
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()) / largest


class RefusedError(Exception):
    """TensorRT would not; ``stage`` says what it was asked to do."""

    def __init__(self, stage: str) -> None:
        super().__init__(stage)
        self.stage = stage


def deserialize(trt: Any, logger: Any, plan: Path, plugin: Path | None) -> tuple[Any, Any]:
    """The runtime, which must outlive the engine, and the engine."""
    runtime = trt.Runtime(logger)
    if runtime is None:
        raise RefusedError("creating the runtime")
    runtime.engine_host_code_allowed = True  # a plan may hold the plugin's library
    if plugin is not None and runtime.get_plugin_registry().load_library(str(plugin)) is None:
        raise RefusedError("loading the plugin")
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise RefusedError("deserialising the plan")
    return runtime, engine


def run_case(trt: Any, engine: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name, computed in torch tensors on a stream that is not the default one."""
    context = engine.create_execution_context()
    if context is None:
        raise RefusedError("creating an execution context")
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    types = {name: TORCH_TYPES[engine.get_tensor_dtype(name).name] for name in names}
    is_input = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
    tensors = {}
    for name in filter(is_input.__getitem__, names):
        tensors[name] = torch.from_numpy(inputs[name]).cuda().to(types[name]).contiguous()
        if not context.set_input_shape(name, tuple(tensors[name].shape)):
            raise RefusedError(f"setting the shape of {name} to {tuple(tensors[name].shape)}")
    for name in names:
        if not is_input[name]:
            shape = tuple(context.get_tensor_shape(name))
            tensors[name] = torch.empty(shape, dtype=types[name], device="cuda")
            if types[name].is_floating_point:
                tensors[name].fill_(torch.nan)
    for name, tensor in tensors.items():
        if not context.set_tensor_address(name, tensor.data_ptr()):
            raise RefusedError(f"setting the address of {name}")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    if not context.execute_async_v3(stream.cuda_stream):
        raise RefusedError("executing")
    stream.synchronize()
    return {name: tensors[name].float().cpu().numpy() for name in names if not is_input[name]}


def run(plan: Path, reference: Path, plugin: Path | None) -> dict[str, Any]:
    """The JSON object that is printed."""
    trt = import_module("tensorrt_rtx")
    messages: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.Logger.INTERNAL_ERROR, trt.Logger.ERROR, trt.Logger.WARNING):
                messages.append(f"[{severity.name}] {text}")

    report: dict[str, Any] = {"version": trt.__version__, "messages": messages}
    try:
        _runtime, engine = deserialize(trt, Logger(), plan, plugin)
        errors: dict[str, float | None] = {}
        for case, sides in read_cases(reference).items():
            found = run_case(trt, engine, sides["in"])
            for name, expected in sides["out"].items():
                errors[f"{case}/{name}"] = difference(found[name], expected)
    except RefusedError as refusal:
        return report | {"outcome": "refused", "stage": refusal.stage}
    except Exception as error:  # of pybind11 and torch: their words are the finding
        messages.append(f"{type(error).__name__}: {error}")
        return report | {"outcome": "refused", "stage": "an exception"}
    return report | {"outcome": "ran", "errors": errors}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--plugin", type=Path)
    options = parser.parse_args()
    # TensorRT prints to stdout as it pleases; the report gets it for itself.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer.write(json.dumps(run(options.plan, options.reference, options.plugin)) + "\n")
    answer.flush()
    sys.exit(0)


if __name__ == "__main__":
    main()
