"""The "plan" of a simulated engine: a small JSON that points to an ONNX file, and what runs it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

Array = npt.NDArray[Any]
ATTENTION = "NeighborhoodAttention2D"

# TensorRT's name of a type, how it lies in memory, and ONNX Runtime's name.
ELEMENTS: dict[str, Any] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
_FROM_ORT = {
    "tensor(float)": "FLOAT",
    "tensor(float16)": "HALF",
    "tensor(bfloat16)": "BF16",
    "tensor(int8)": "INT8",
    "tensor(uint8)": "UINT8",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(bool)": "BOOL",
}
_TO_ORT = {ort: np.dtype(ELEMENTS[name]) for ort, name in _FROM_ORT.items()}


@dataclass
class SimulatedPlan:
    """What a simulated engine is made of.

    Attributes:
        onnx: the model.
        version: of the TensorRT that built it; another one refuses it.
        profiles: of every profile: input -> its smallest, best and largest shape.
        outputs: tensors to return beside the model's outputs.
        debug: tensors that a debug listener can see.
        types: tensor -> TensorRT's name of its type, where it differs from the ONNX file's.
        data_dependent: outputs whose shape is only known after the run.
        host: inputs and outputs that live in host memory.
        plugins: (name, version, namespace) that must be registered.
        host_code: whether the plan holds some.
        capturable: whether its kernels can be recorded in a graph.
        verbose: whether the inspector tells more of a layer than its name.
    """

    onnx: str
    version: str
    profiles: list[dict[str, list[list[int]]]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    debug: list[str] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    data_dependent: list[str] = field(default_factory=list)
    host: list[str] = field(default_factory=list)
    plugins: list[list[str]] = field(default_factory=list)
    host_code: bool = False
    capturable: bool = True
    verbose: bool = True

    def to_bytes(self) -> bytes:
        return json.dumps({"simulated plan": asdict(self)}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> SimulatedPlan | None:
        """The plan; None if it is none."""
        try:
            return cls(**json.loads(data)["simulated plan"])
        except (ValueError, KeyError, TypeError):
            return None


class Model:
    """The ONNX file in ONNX Runtime, with types converted at its boundary."""

    def __init__(self, plan: SimulatedPlan) -> None:
        path = Path(plan.onnx)
        proto = onnx.load(str(path), load_external_data=False)
        self.nodes = list(proto.graph.node)
        self.weight_bytes = sum(len(t.raw_data) for t in proto.graph.initializer)
        have = {output.name for output in proto.graph.output}
        for name in (*plan.outputs, *plan.debug):
            if name not in have:
                proto.graph.output.append(onnx.ValueInfoProto(name=name))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(path.parent)
        )
        self._session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.inputs = [info.name for info in inputs]
        self.outputs = [info.name for info in outputs if info.name not in plan.debug]
        self._ort_types = {info.name: info.type for info in (*inputs, *outputs)}
        self.types = {
            name: plan.types.get(name, _FROM_ORT[ort]) for name, ort in self._ort_types.items()
        }
        self.shapes = {
            info.name: tuple(d if isinstance(d, int) else -1 for d in info.shape)
            for info in (*inputs, *outputs)
        }
        self._found: dict[tuple[tuple[int, ...], ...], dict[str, tuple[int, ...]]] = {}

    def element(self, name: str) -> np.dtype[Any]:
        return np.dtype(ELEMENTS[self.types[name]])

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs and debug tensors, each in the type that the engine says."""
        given = {
            name: array.astype(_TO_ORT[self._ort_types[name]]) for name, array in feeds.items()
        }
        names = [info.name for info in self._session.get_outputs()]
        results = self._session.run(names, given)
        return {
            name: np.ascontiguousarray(np.asarray(result).astype(self.element(name)))
            for name, result in zip(names, results, strict=True)
        }

    def output_shapes(self, inputs: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """Shapes of all outputs for inputs of zeros."""
        key = tuple(tuple(inputs[name]) for name in self.inputs)
        if key not in self._found:
            zeros = {name: np.zeros(inputs[name], self.element(name)) for name in self.inputs}
            self._found[key] = {name: array.shape for name, array in self.run(zeros).items()}
        return self._found[key]

    def layers(self, plan: SimulatedPlan) -> list[Any]:
        """Layers as the inspector names them: a node is a layer, an attention node two."""
        found: list[dict[str, str]] = []
        for node in self.nodes:
            if node.op_type.startswith(ATTENTION) and plan.plugins:
                found.append(
                    {
                        "Name": node.name,
                        "LayerType": "PluginV3",
                        "PluginType": node.op_type,
                        "Metadata": f"[ONNX Layer: {node.name}]",
                    }
                )
            elif node.op_type.startswith(ATTENTION):
                for inner in ("MatMul_1", "Softmax_2"):
                    origin = f"[ONNX Layer: {inner} | {node.name} ({node.op_type})]"
                    found.append(
                        {"Name": f"{node.name}/{inner}", "LayerType": "gemm", "Metadata": origin}
                    )
            else:
                origin = f"[ONNX Layer: {node.name}]"
                found.append(
                    {"Name": node.name or node.output[0], "LayerType": "kgen", "Metadata": origin}
                )
        return found if plan.verbose else [layer["Name"] for layer in found]
