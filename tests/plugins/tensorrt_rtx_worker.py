"""Parses and builds ONNX files with TensorRT-RTX and our plugin, one request a line.

    python -m tests.plugins.tensorrt_rtx_worker libdinat_tensorrt.so

Reads JSON objects ``{"model": path, "profile": {name: [min, opt, max]}, "embed": bool}`` from stdin
and answers each with one line: ``parsed``, ``layers`` ([name, type]), ``log`` (warnings and errors),
``bytes`` of the plan (0: none), ``holds_plugin``. It is a process of its own so that a crash of
TensorRT is seen as one; ``-`` instead of a library works without plugin.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt


class Log(trt.ILogger):
    """Keeps what matters to a user."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.Severity.WARNING:
            self.lines.append(message)


def answer(request: dict[str, Any], log: Log, library: str | None) -> dict[str, Any]:
    log.lines.clear()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(request["model"]):
        return {"parsed": False, "log": log.lines, "layers": [], "bytes": 0, "holds_plugin": False}
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    if request.get("profile"):
        profile = builder.create_optimization_profile()
        for name, shapes in request["profile"].items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    if request.get("embed"):
        config.plugins_to_serialize = [library]
    plan = builder.build_serialized_network(network, config)
    data = b"" if plan is None else bytes(plan)
    return {
        "parsed": True,
        "log": log.lines,
        "layers": [[layer.name, layer.type.name] for layer in layers],
        "bytes": len(data),
        "holds_plugin": library is not None and Path(library).read_bytes() in data,
    }


def main() -> None:
    # What libraries write to stdout must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    library = None if sys.argv[1] == "-" else sys.argv[1]
    log = Log()
    keep_alive = trt.Builder(log)  # the registry logs through the first builder's logger
    if library is not None:
        trt.get_plugin_registry().load_library(library)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), log, library)), file=answers, flush=True)
    del keep_alive


if __name__ == "__main__":
    main()
