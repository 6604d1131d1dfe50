"""Which nodes stay in float32 for the sake of places, and of what is chosen.

float16 tells numbers near 1000 apart by 0.5 and bfloat16 by 4: corners of boxes would be off by as
many pixels. A place on a map of 128 cells, which is written as -1 to 1, would be off by 1/32 and by
1/4 of a cell. Scores that rounding makes equal would be chosen among by chance, and a box that is
chosen in another's place is off by all that lies between them.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from dinat_deploy.graph.node_kinds import NORMALIZATIONS, PRODUCTS, STANDARD, TYPELESS

_BOXES = {
    "NonMaxSuppression": ((0, 1), "the boxes and scores that NonMaxSuppression chooses by"),
    "RoiAlign": ((1,), "the boxes that RoiAlign reads in"),
}


class SampledPlaces:
    """GridSample, and what computes the places that it reads at from the last product on.

    The product itself may be short: it gives offsets of a few cells. GridSample stays with its
    places because to TensorRT they are of the type of the map.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._nodes: dict[ir.Node, str] = {}
        for reader in graph:
            if reader.op_type == "GridSample" and reader.domain in STANDARD:
                self._nodes[reader] = "GridSample reads places in the type of the map"
                for node in _leading_to(reader.inputs[1]):
                    if node.op_type not in PRODUCTS:
                        self._nodes.setdefault(node, "the places that GridSample reads at")

    def reason(self, node: ir.Node) -> str | None:
        return self._nodes.get(node)


class Boxes:
    """Boxes and scores of a detector: from the last product on, which gives corrections of boxes or
    scores, to where boxes are chosen, read in and given out.

    RoiAlign stays with its boxes because to ONNX they are of the type of the map.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._nodes: dict[ir.Node, str] = {}
        readers = [n for n in graph if n.op_type in _BOXES and n.domain in STANDARD]
        for reader in readers:
            positions, reason = _BOXES[reader.op_type]
            if reader.op_type == "RoiAlign":
                self._nodes[reader] = "RoiAlign reads boxes in the type of the map"
            for position in positions:
                self._add(reader.inputs[position], reason)
        if any(reader.op_type == "NonMaxSuppression" for reader in readers):
            for value in graph.outputs:
                self._add(value, f"the detections' {value.name}")

    def _add(self, value: ir.Value | None, reason: str) -> None:
        for node in _leading_to(value):
            self._nodes.setdefault(node, reason)

    def reason(self, node: ir.Node) -> str | None:
        return self._nodes.get(node)


def _leading_to(value: ir.Value | None) -> Iterator[ir.Node]:
    """Nodes that a tensor is computed by, back to the last products, these included, and to the
    last norms and operators of other domains, without them."""
    seen: set[ir.Node] = set()
    ahead = [value]
    while ahead:
        value = ahead.pop()
        node = value.producer() if value is not None else None
        if node is None or node in seen or node.domain not in STANDARD:
            continue
        seen.add(node)
        if node.op_type in NORMALIZATIONS or node.op_type in TYPELESS:
            continue
        yield node
        if node.op_type not in PRODUCTS:
            ahead.extend(node.inputs)
