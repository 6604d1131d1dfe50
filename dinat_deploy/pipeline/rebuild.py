"""The PyTorch model of a bundle, rebuilt from the bundle alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dinat_deploy.bundle import Bundle
from dinat_deploy.errors import BundleError
from dinat_deploy.graph.weights import read_weights
from dinat_deploy.models.weights import digest, empty_model
from dinat_deploy.session.torch_session import TorchSession


def torch_session(bundle: Bundle, taps: Sequence[str] = ()) -> TorchSession:
    """PyTorch with the weights of the bundle's ONNX file.

    Raises:
        BundleError: those are not the weights that were exported.
    """
    manifest = bundle.manifest
    model = empty_model(manifest.config)
    state = model.state_dict()
    weights = read_weights(bundle.model_path, state)
    actual = digest(weights)
    if actual != manifest.weights.sha256:
        raise BundleError(
            f"The weights in {bundle.model_path} have SHA-256 {actual[:12]}..., and the exported "
            f"ones had {manifest.weights.sha256[:12]}....",
            "Export the model again.",
        )
    for name, tensor in state.items():
        if name in weights:
            tensor.copy_(torch.tensor(weights[name]))
        else:
            tensor.zero_()  # not reached by any output
    names = [spec.name for spec in manifest.graph.inputs]
    outputs = [spec.name for spec in manifest.graph.outputs]
    return TorchSession(model.requires_grad_(False), names, outputs, taps=taps)
