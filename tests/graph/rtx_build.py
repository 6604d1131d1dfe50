"""Parse and build an ONNX file with TensorRT-RTX, in a process of its own.

    python -m tests.graph.rtx_build model.onnx [input=1x3x64x64:2x3x64x64:4x3x64x64]

TensorRT-RTX builds ahead of time without a GPU. Prints one JSON object: ``layers``, ``bytes`` and
``errors`` of the parser.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tensorrt_rtx as trt


def build(path: Path, profiles: dict[str, list[tuple[int, ...]]]) -> dict[str, object]:
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        return {"errors": [str(parser.get_error(i)) for i in range(parser.num_errors)]}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    if profiles:
        profile = builder.create_optimization_profile()
        for name, (least, best, most) in profiles.items():
            profile.set_shape(name, least, best, most)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    size = 0 if plan is None else plan.nbytes
    return {"errors": [], "layers": network.num_layers, "bytes": size}


def main() -> None:
    profiles = {}
    for argument in sys.argv[2:]:
        name, shapes = argument.split("=")
        profiles[name] = [tuple(map(int, shape.split("x"))) for shape in shapes.split(":")]
    print(json.dumps(build(Path(sys.argv[1]), profiles)))


if __name__ == "__main__":
    main()
