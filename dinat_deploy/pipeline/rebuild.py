"""PyTorch models, rebuilt from a bundle alone or from the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dinat_deploy.bundle import MANIFEST, Bundle, TensorSpec
from dinat_deploy.errors import BundleError, ConfigError
from dinat_deploy.graph.weights import read_weights
from dinat_deploy.models.building import Model
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.weights import digest, empty_model
from dinat_deploy.pipeline.requests import ModelRequest
from dinat_deploy.pipeline.sources import resolve
from dinat_deploy.session.measuring import MemoryGain
from dinat_deploy.session.torch_session import TorchSession

_INPUT = "image"
_TYPES = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Place:
    """Where and how PyTorch runs a model.

    Attributes:
        device: ``cpu`` or ``cuda``.
        compiled: through ``torch.compile``.
        threads: of the CPU, for the whole process; 0 leaves PyTorch's own choice.
    """

    device: str = "cpu"
    compiled: bool = False
    threads: int = 0

    @classmethod
    def of(cls, runtime: str, threads: int = 0) -> Place:
        """That a runtime's name means: ``torch-compile`` takes the GPU if there is one."""
        compiled = runtime == "torch-compile"
        on_gpu = runtime == "torch-cuda" or (compiled and torch.cuda.is_available())
        return cls("cuda" if on_gpu else "cpu", compiled, threads)

    def settle(self) -> None:
        """Set the number of threads."""
        if self.threads:
            torch.set_num_threads(self.threads)


@dataclass(frozen=True)
class Published:
    """A model of the zoo with made-up weights."""

    session: TorchSession
    config: ModelConfig
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    taps: dict[str, str]
    notes: list[str]


def torch_session(
    bundle: Bundle,
    taps: Sequence[str] = (),
    place: Place | None = None,
    precision: str = "fp32",
) -> TorchSession:
    """PyTorch with the weights of the bundle's ONNX file.

    Args:
        precision: ``fp16`` and ``bf16`` compute everything in that type, as ``module.half()`` does.

    Raises:
        ConfigError: PyTorch does not run models in this precision.
        BundleError: those are not the weights that were exported.
        MissingDependencyError: the place is a GPU, and PyTorch sees none.
    """
    place = place or Place()
    manifest = bundle.manifest
    if precision not in _TYPES:
        raise ConfigError(
            f"PyTorch does not run {precision} models, only {', '.join(_TYPES)}.",
            "Name the bundle instead.",
        )
    gain = MemoryGain()
    with gain.watched():
        model = _rebuilt(bundle)
    names = [spec.name for spec in manifest.graph.inputs]
    outputs = [spec.name for spec in manifest.graph.outputs]
    if len(outputs) != len(manifest.config.output_names) or {*outputs} != {
        *manifest.config.output_names
    }:
        raise BundleError(
            f"{bundle.path / MANIFEST} lists the outputs {', '.join(outputs)}, and the model that "
            f"it describes has {', '.join(manifest.config.output_names)}.",
            "Export the model again.",
        )
    place.settle()
    return TorchSession(
        model.requires_grad_(False),
        names,
        outputs,
        taps=taps,
        device=place.device,
        dtype=_TYPES[precision],
        compiled=place.compiled,
        memory_gain=gain,
    )


def _rebuilt(bundle: Bundle) -> Model:
    manifest = bundle.manifest
    model = empty_model(manifest.config)
    state = model.state_dict()
    weights = read_weights(bundle.model_path, state)
    for name, array in weights.items():
        if array.shape != tuple(state[name].shape):
            raise BundleError(
                f"{name} in {bundle.model_path} has the shape {list(array.shape)}, and the model "
                f"that {MANIFEST} describes {list(state[name].shape)}.",
                "Export the model again.",
            )
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
    return model


def published(name: str, place: Place, *, taps: bool) -> Published:
    """A model of the zoo in PyTorch.

    Raises:
        UnknownModelError: there is none of this name.
        MissingDependencyError: the place is a GPU, and PyTorch sees none.
    """
    gain = MemoryGain()
    with gain.watched():
        source = resolve(ModelRequest(model=name))
    config = source.config
    outputs = config.output_names
    tapped = source.module.block_names() if taps else []
    place.settle()
    session = TorchSession(
        source.module.requires_grad_(False),
        [_INPUT],
        outputs,
        taps=tapped,
        device=place.device,
        compiled=place.compiled,
        memory_gain=gain,
    )
    image: list[int | str] = ["batch", config.in_channels, *config.image_size]
    return Published(
        session,
        config,
        inputs=[TensorSpec(name=_INPUT, dtype="float", shape=image)],
        outputs=[TensorSpec(name=output, dtype="float", shape=["batch"]) for output in outputs],
        taps={path: path for path in tapped},
        notes=[f"The weights of {source.name} are made up: {source.weights_origin}."],
    )
