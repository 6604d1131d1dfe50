"""One graph in which every site's lower precision can be turned on and off while it runs.

Each node in question becomes an ``If`` that an entry of a new input chooses the branch of: the node
as it was, or the node with its inputs and weights quantized (int8, fp8) or with all that it reads
and writes rounded (fp16, bf16). Only the chosen branch runs, so a switch costs no time, and one
session measures every combination. Weights are kept in both forms.

The arithmetic in between is float32: what a GPU gives, whose integer products are exact, without
the kernels of ONNX Runtime for integers, some of which saturate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dinat_deploy.errors import ConversionError
from dinat_deploy.graph.formats import Format, QuantizedFormat, rounded
from dinat_deploy.graph.islands import FLOAT
from dinat_deploy.graph.precision import check_convertible
from dinat_deploy.graph.quantization.records import Placement, Ranges

# The input with an entry for each site; a true one lowers its precision.
SWITCHES = "switches"

FloatArray = npt.NDArray[np.float32]


def add_quantization_switches(
    model: ir.Model, placement: Placement, ranges: Ranges, form: QuantizedFormat
) -> list[str]:
    """Let an input turn the quantization of every site and pair on, in place.

    Args:
        placement: what can be quantized in this graph.
        ranges: of the tensors that the placement names.
        form: int8 or fp8.

    Returns:
        What the entries of the input ``switches`` (bool) stand for, in order: nodes of the sites,
        then tensors of the pairs.

    Raises:
        ConversionError: the graph is not float32, its opset has no Q/DQ of the format, or a range
            is missing.
    """
    check_convertible(model)
    opset = model.graph.opset_imports[""]
    if opset < form.opset:
        raise ConversionError(
            f"{form.name} needs opset {form.opset}, and the model has opset {opset}.",
            "Export the model again with a newer --opset.",
        )
    nodes = {str(node.name): node for node in model.graph}
    writer = _Writer(model)
    scales = {name: _scale(name, ranges, form) for name in placement.tensors}
    for site in placement.sites:
        weight = model.graph.initializers[site.weight]
        replacements = {
            site.activation: lambda value, b, s=scales[site.activation]: b.fake(value, s, form),
            site.weight: writer.constant(weight, _fake_weights(weight, site.axis, form)),
        }
        writer.switch(nodes[site.node], replacements, lambda value, b: value)
    for pair in placement.pairs:
        scale = scales[pair.tensor]
        readers = [nodes[name] for name in pair.readers]
        writer.switch_tensor(pair.tensor, readers, lambda value, b, s=scale: b.fake(value, s, form))
    return writer.finish()
