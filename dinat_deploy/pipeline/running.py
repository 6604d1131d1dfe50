"""Running a bundle's ONNX file."""

from __future__ import annotations

from collections.abc import Sequence

from dinat_deploy.bundle import Bundle
from dinat_deploy.errors import BundleError, MissingDependencyError
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession, import_onnxruntime


def onnxruntime_session(bundle: Bundle, taps: Sequence[str] = ()) -> OnnxRuntimeSession:
    """The bundle's model in ONNX Runtime, with the operator's library where it is built.

    Raises:
        BundleError: the model was exported without a body, and the library is missing.
        MissingDependencyError: onnxruntime is not installed.
    """
    import_onnxruntime()
    if bundle.manifest.graph.body:
        return OnnxRuntimeSession(bundle.model_path, taps=taps)
    try:
        return OnnxRuntimeSession(bundle.model_path, taps=taps, custom_op=True)
    except MissingDependencyError as error:
        raise BundleError(
            f"{bundle.model_path} has no body for the operator. {error.cause}",
            f"{error.cure} Or export with --body standard.",
        ) from None
