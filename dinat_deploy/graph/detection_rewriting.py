"""A copy of an ONNX file without the operators of detectors that TensorRT-RTX cannot build."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from dinat_deploy.graph import roi_align, suppression
from dinat_deploy.graph.reading import load_ir


def rewrite(model: Path, directory: Path) -> Path:
    """Copy an ONNX file with its RoiAlign and NonMaxSuppression written out in other operators, as
    far as they are as our exporter writes them.

    Weights that lie in a file beside the model are copied too.

    Args:
        directory: where the copy goes, under the same name.

    Returns:
        The copy.
    """
    loaded = load_ir(model)
    roi_align.replace(loaded)
    suppression.replace(loaded)
    copy = directory / model.name
    tensors = [value.const_value for value in loaded.graph.initializers.values()]
    beside = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    ir.save(loaded, copy, external_data=f"{model.name}.data" if beside else None)
    return copy
