"""The operator's standard-ops body against the k*k gather and PyTorch, at DiNAT's stage shapes.

    python benchmarks/lowering.py                     a table
    python benchmarks/lowering.py --json out/lowering.json

float32, batch 1, head dim 32, ONNX Runtime on the CPU. The three are checked against each other,
then timed call by call in turn. Read the ratios; milliseconds belong to the machine.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from gather_lowering import gather_model
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.progress import track
from timing import interleaved

from dinat_deploy.graph import functions, schema
from dinat_deploy.ops.functional import neighborhood_attention_qkv_2d

DIM = 32


@dataclass(frozen=True)
class Stage:
    """A square map of ``size`` tokens with its attention parameters."""

    model: str
    size: int
    heads: int
    dilation: int
    kernel: int = 7


STAGES = [
    *(
        Stage("DiNAT-T", size, heads, dilation)
        for size, heads, largest in ((56, 2, 8), (28, 4, 4), (14, 8, 2))
        for dilation in (1, largest)
    ),
    Stage("DiNAT-T", 7, 16, 1),
    *(
        Stage("DiNAT-L", size, heads, dilation)
        for size, heads, largest in ((56, 6, 8), (28, 12, 4), (14, 24, 2))
        for dilation in (1, largest)
    ),
    Stage("DiNAT-L", 7, 48, 1),
    Stage("DiNAT-L 384", 96, 6, 1, 11),
    Stage("DiNAT-L 384", 96, 6, 8, 11),
]


@dataclass(frozen=True)
class Row:
    """Median milliseconds of one stage."""

    stage: Stage
    body: float
    gather: float
    torch: float


def body_model(stage: Stage, rpb: np.ndarray) -> onnx.ModelProto:
    """One operator node with its body, as export writes it."""
    size, heads = stage.size, stage.heads
    attributes = schema.node_attributes(
        num_heads=heads,
        kernel_size=(stage.kernel, stage.kernel),
        dilation=(stage.dilation, stage.dilation),
        scale=DIM**-0.5,
        head_dim=DIM,
        size=(size, size),
    )
    node = helper.make_node(
        schema.PACKED, ["qkv", "rpb"], ["output"], domain=schema.DOMAIN, **attributes
    )
    graph = helper.make_graph(
        [node],
        "body",
        [helper.make_tensor_value_info("qkv", TensorProto.FLOAT, [1, size, size, 3 * heads * DIM])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, size, size, heads * DIM])],
        [numpy_helper.from_array(rpb, "rpb")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(schema.DOMAIN, 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    functions.attach_body(model)
    return ir.to_proto(model)


def session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle worker threads of one rival must not take the cores from the next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def measure(stage: Stage, threads: int, rounds: int) -> Row:
    rng = np.random.default_rng(0)
    qkv = rng.standard_normal((1, stage.size, stage.size, 3 * stage.heads * DIM))
    feeds = {"qkv": qkv.astype(np.float32)}
    edge = 2 * stage.kernel - 1
    rpb = rng.standard_normal((stage.heads, edge, edge)).astype(np.float32)
    body = session(body_model(stage, rpb), threads)
    gather = session(
        gather_model(stage.size, stage.heads, DIM, stage.kernel, stage.dilation, rpb), threads
    )
    tensor, table = torch.from_numpy(feeds["qkv"]), torch.from_numpy(rpb)

    def with_torch() -> np.ndarray:
        with torch.inference_mode():
            return neighborhood_attention_qkv_2d(
                tensor,
                table,
                num_heads=stage.heads,
                kernel_size=stage.kernel,
                dilation=stage.dilation,
            ).numpy()

    results = [body.run(None, feeds)[0], gather.run(None, feeds)[0], with_torch()]
    assert max(np.abs(result - results[0]).max() for result in results) < 1e-4
    times = interleaved(
        {
            "body": lambda: body.run(None, feeds),
            "gather": lambda: gather.run(None, feeds),
            "torch": with_torch,
        },
        rounds,
    )
    return Row(stage, times["body"], times["gather"], times["torch"])


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def table(rows: list[Row]) -> str:
    lines = [
        "| stage | map, heads, k, d | body ms | gather ms | PyTorch ms "
        "| gather / body | PyTorch / body |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        stage = row.stage
        lines.append(
            f"| {stage.model} | {stage.size}x{stage.size}, {stage.heads}, {stage.kernel}, "
            f"{stage.dilation} | {row.body:.2f} | {row.gather:.2f} | {row.torch:.2f} | "
            f"{row.gather / row.body:.1f} | {row.torch / row.body:.2f} |"
        )
    gather = geometric_mean([row.gather / row.body for row in rows])
    eager = geometric_mean([row.torch / row.body for row in rows])
    lines.append(f"| geometric mean | | | | | **{gather:.1f}** | **{eager:.2f}** |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--stages", type=int, default=len(STAGES), help="only the first N")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        measure(stage, options.threads, options.rounds)
        for stage in track(STAGES[: options.stages], "Measuring", console=Console(stderr=True))
    ]
    print(
        f"ONNX Runtime {onnxruntime.__version__}, PyTorch {torch.__version__}, "
        f"{options.threads} threads\n"
    )
    print(table(rows))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()
