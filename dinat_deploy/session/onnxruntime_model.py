"""Changes to an ONNX file in memory, before ONNX Runtime loads it. Needs the package onnx."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dinat_deploy.errors import BundleError, MissingDependencyError

if TYPE_CHECKING:
    import onnx

# As in dinat_deploy/graph/schema.py.
DOMAIN = "dinat"
OP_TYPES = ("NeighborhoodAttention2D", "NeighborhoodAttention2DSplit")
# Where ONNX Runtime's provider puts all plugins that TensorRT knows.
TENSORRT_DOMAIN = "trt.plugins"


def load(path: Path, purpose: str) -> onnx.ModelProto:
    """The model without its external data.

    Args:
        purpose: what onnx is needed for, as the beginning of a sentence.

    Raises:
        MissingDependencyError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise MissingDependencyError(
            f"{purpose} needs onnx, which is not installed.", "pip install onnx"
        ) from None
    return onnx.load(str(path), load_external_data=False)


def add_outputs(model: onnx.ModelProto, names: Sequence[str], path: Path) -> None:
    """Make more of its tensors outputs.

    Raises:
        BundleError: the model has no such tensor.
    """
    import onnx

    present = {output for node in model.graph.node for output in node.output}
    unknown = [name for name in names if name not in present]
    if unknown:
        raise BundleError(
            f"{path} has no tensor {unknown[0]} ({len(unknown)} of {len(names)} are missing).",
            "The file was changed after its export; export it again.",
        )
    have = {output.name for output in model.graph.output}
    types = {info.name: info for info in model.graph.value_info}
    for name in names:
        if name not in have:
            model.graph.output.append(types.get(name, onnx.ValueInfoProto(name=name)))


def name_plugins(model: onnx.ModelProto) -> int:
    """Move the attention nodes to the domain in which ONNX Runtime looks for TensorRT's plugins.

    Their attributes already name the plugin's namespace and version, which is what TensorRT's
    parser goes by. The bodies go, as they belong to the other domain.

    Returns:
        How many there are.
    """
    moved = 0
    for node in model.graph.node:
        if node.domain == DOMAIN and node.op_type in OP_TYPES:
            node.domain = TENSORRT_DOMAIN
            moved += 1
    if moved:
        kept = [function for function in model.functions if function.domain != DOMAIN]
        del model.functions[:]
        model.functions.extend(kept)
        for entry in model.opset_import:
            if entry.domain == DOMAIN:
                entry.domain = TENSORRT_DOMAIN
    return moved


def body_nodes(original: onnx.ModelProto, optimized: onnx.ModelProto) -> tuple[set[int], int]:
    """Nodes of an optimized model that compute the bodies of the attention nodes.

    They are found by the tensors between them: everything that an attention node's output is made
    from, back to the node's inputs. Names do not tell, as optimizers give new ones.

    Returns:
        Positions in ``optimized.graph.node``, and how many attention nodes were not found.
    """
    producers = {
        output: position
        for position, node in enumerate(optimized.graph.node)
        for output in node.output
    }
    found: set[int] = set()
    lost = 0
    for attention in original.graph.node:
        if attention.domain != DOMAIN or attention.op_type not in OP_TYPES:
            continue
        waiting = [attention.output[0]]
        seen = set(attention.input)
        if attention.output[0] not in producers or attention.input[0] not in producers:
            lost += 1
            continue
        while waiting:
            tensor = waiting.pop()
            if tensor in seen or tensor not in producers:
                continue
            seen.add(tensor)
            position = producers[tensor]
            found.add(position)
            waiting.extend(optimized.graph.node[position].input)
    return found, lost
