"""``inspect``: what an ONNX file, or the one in a bundle, holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dinat_deploy.bundle import MODEL
from dinat_deploy.errors import MissingDependencyError

if TYPE_CHECKING:
    from dinat_deploy.graph.inspection import Inspection


def inspect(path: str | Path) -> Inspection:
    """Summarise an ONNX file or a bundle's.

    Raises:
        BundleError: it is not ONNX.
        MissingDependencyError: the package onnx is not installed.
    """
    path = Path(path)
    try:
        from dinat_deploy.graph.inspection import inspect_model
    except ImportError:
        raise MissingDependencyError(
            "Reading ONNX files needs the package onnx, which is not installed.",
            "pip install onnx",
        ) from None
    return inspect_model(path / MODEL if path.is_dir() else path)
