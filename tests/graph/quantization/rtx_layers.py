"""What TensorRT-RTX makes of ONNX files, in a process of its own.

    python -m tests.graph.quantization.rtx_layers PLUGIN|- SM86=one.onnx SM89=two.onnx

Builds each file ahead of time for a compute capability; no GPU is needed. Prints one JSON object for
each: ``errors``, and ``layers`` of the compiled engine, which the builder's log lists: ``name``,
``type``, and the element types of ``inputs``, ``constants`` and ``outputs``.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import tensorrt_rtx as trt

_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<type>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], TacticName"
)


class Log(trt.ILogger):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[Any, str]] = []

    def log(self, severity: Any, message: str) -> None:
        self.lines.append((severity, message))


def build(path: str, target: str, log: Log) -> dict[str, Any]:
    log.lines.clear()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    plan = None
    if parser.parse_from_file(path):
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        plan = builder.build_serialized_network(network, config)
    listed = next((text for _, text in log.lines if text.startswith("Layers:")), "")
    layers = []
    for found in _LAYER.finditer(listed):
        entry: dict[str, Any] = {"name": found["name"], "type": found["type"]}
        for part in ("inputs", "constants", "outputs"):
            entry[part] = re.findall(r"Datatype: (\w+)", found[part])
        layers.append(entry)
    severe = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)
    errors = [] if plan is not None else [text for kind, text in log.lines if kind in severe]
    return {"layers": layers, "errors": errors}


def main() -> None:
    library, *requests = sys.argv[1:]
    log = Log()
    keep_alive = trt.Builder(log)  # the registry logs through the first builder's logger
    if library != "-":
        trt.get_plugin_registry().load_library(library)
    for request in requests:
        target, path = request.split("=", 1)
        print(json.dumps(build(path, target, log)), flush=True)
    del keep_alive


if __name__ == "__main__":
    main()
