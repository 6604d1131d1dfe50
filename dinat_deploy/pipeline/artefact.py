"""What can be run: how it is named on the command line, and what it is once it is loaded.

    [RUNTIME:]TARGET

``TARGET`` is a bundle, an ONNX file, an engine (the directory with ``engine.json``) or a plan in
one, and for PyTorch also the name of a model of the zoo. Without ``RUNTIME`` an engine runs in the
TensorRT that built it and the others in ONNX Runtime on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from dinat_deploy.bundle import Bundle, TensorSpec
from dinat_deploy.errors import BundleError, ConfigError, DinatDeployError

if TYPE_CHECKING:
    from dinat_deploy.engine.manifest import Engine
    from dinat_deploy.engine.profiles import Profile
    from dinat_deploy.models.config import ModelConfig
    from dinat_deploy.session.base import Session

RuntimeName = Literal[
    "onnxruntime",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "onnxruntime-tensorrt-rtx",
    "torch",
    "torch-cuda",
    "torch-compile",
    "tensorrt",
]
RUNTIMES: tuple[str, ...] = get_args(RuntimeName)


@dataclass(frozen=True)
class ArtefactName:
    """A name as it was written, in its parts; ``runtime`` is None where none was named."""

    text: str
    runtime: RuntimeName | None
    target: str

    def __str__(self) -> str:
        return self.text


def parse_artefact(text: str) -> ArtefactName:
    """Split a name.

    Raises:
        ConfigError: the runtime is unknown, or no target is named.
    """
    runtime, colon, target = text.partition(":")
    # C:\models is a path, and so is everything in which a separator stands before the colon.
    if not colon or len(runtime) == 1 or "/" in runtime or "\\" in runtime:
        return ArtefactName(text, None, text)
    for known in RUNTIMES:
        if runtime == known:
            if not target:
                raise ConfigError(f"{text!r} names no model.", f"Write {runtime}:TARGET.")
            return ArtefactName(text, known, target)  # type: ignore[arg-type]
    raise ConfigError(
        f"{runtime!r} in {text!r} is no runtime.", f"There are {', '.join(RUNTIMES)}."
    )


@dataclass(frozen=True)
class Artefact:
    """Something that is loaded and can be run. A context manager: leaving it closes the session.

    Attributes:
        session: runs it.
        bundle: that it belongs to, if one was found; its ONNX file is checked.
        engine: whose manifest was read and checked; None if it is no engine or has no manifest.
        inputs, outputs: dimensions that are names are dynamic.
        precision: element types of the weights by share, ``int8`` first if it is quantized.
        model_config: the architecture, where a bundle or the zoo says it.
        taps: layer of the PyTorch model -> name under which the session returns its output; empty
            unless it was opened with ``taps``.
        notes: what the user should know of how it was found and opened.
    """

    name: ArtefactName
    session: Session
    bundle: Bundle | None
    engine: Engine | None
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    precision: str
    model_config: ModelConfig | None
    taps: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __enter__(self) -> Artefact:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the session."""
        self.session.close()

    @property
    def profiles(self) -> list[Profile]:
        """Of the engine; empty if it has none, or there is no engine."""
        return self.engine.manifest.profiles if self.engine else []

    @property
    def image_input(self) -> TensorSpec:
        """The one input, which takes pictures.

        Raises:
            BundleError: there are several, or it has not four dimensions.
        """
        if len(self.inputs) == 1 and len(self.inputs[0].shape) == 4:
            return self.inputs[0]
        listed = ", ".join(_described(spec.name, spec.shape) for spec in self.inputs)
        raise BundleError(f"{self.name} takes no pictures: its inputs are {listed}.")

    def default_shapes(self, batch: int | None = None) -> dict[str, list[int]]:
        """Shapes to run with where the user names none.

        Dynamic dimensions are those that the engine's first profile is optimised for, else one
        image of the model's own size.

        Args:
            batch: images of one run.

        Raises:
            ConfigError: the model does not take this batch, or nothing says how large a dynamic
                dimension should be.
        """
        return {spec.name: self._default_shape(spec, batch) for spec in self.inputs}

    def _default_shape(self, spec: TensorSpec, batch: int | None) -> list[int]:
        best = self.profiles[0].get(spec.name) if self.profiles else None
        shape = [
            size if isinstance(size, int) else best.opt[axis] if best else self._own(spec, axis)
            for axis, size in enumerate(spec.shape)
        ]
        if batch is None or not shape:
            return shape
        if isinstance(spec.shape[0], int) and spec.shape[0] != batch:
            raise ConfigError(
                f"{self.name} takes batches of {spec.shape[0]}, not {batch}.",
                "Export it with --dynamic batch, or with the batch that you need.",
            )
        return [batch, *shape[1:]]

    def _own(self, spec: TensorSpec, axis: int) -> int:
        """Size of a dynamic dimension that no profile bounds."""
        if axis == 0:
            # As it was exported, although PyTorch takes any.
            exported = self.bundle.manifest.graph.inputs if self.bundle else []
            fixed = next((e.shape[0] for e in exported if e.name == spec.name), 1)
            return fixed if isinstance(fixed, int) else 1
        if self.model_config is not None and len(spec.shape) == 4:
            return (self.model_config.in_channels, *self.model_config.image_size)[axis - 1]
        raise ConfigError(
            f"The input {spec.name} of {self.name} is dynamic, "
            f"{' x '.join(str(size) for size in spec.shape)}, and nothing says how large it is.",
            f"Name its shape, like --shapes {spec.name}=1x3x224x224.",
        )

    def check_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Compare shapes of the inputs with what the artefact takes.

        Raises:
            ConfigError, EngineError: an input is missing or unknown, a fixed dimension differs, a
                size is outside what the model was exported for, or no profile of the engine covers
                them.
        """
        listed = ", ".join(_described(spec.name, spec.shape) for spec in self.inputs)
        missing = [spec.name for spec in self.inputs if spec.name not in shapes]
        if missing:
            raise ConfigError(
                f"No shape is given for the input {missing[0]}; {self.name} takes {listed}.",
                "Name a shape for every input, separated by commas.",
            )
        if self.engine is not None:
            from dinat_deploy.engine.checks import check_shapes

            check_shapes(self.engine, shapes)
        for name, shape in shapes.items():
            own = next((spec.shape for spec in self.inputs if spec.name == name), None)
            if own is None or not _fits(own, shape):
                raise ConfigError(
                    f"The shape {_described(name, shape)} does not fit: {self.name} takes {listed}."
                )
            self._check_size(name, own, shape)

    def _check_size(self, name: str, own: Sequence[int | str], shape: Sequence[int]) -> None:
        """Sizes beyond those of the export, which graphs were not checked for."""
        bounds = self.bundle.manifest.graph.size_range if self.bundle else None
        if bounds is None or len(own) != 4 or (self.name.runtime or "").startswith("torch"):
            return
        for axis, size in list(zip(own, shape, strict=True))[2:]:
            if isinstance(axis, str) and not bounds[0] <= size <= bounds[1]:
                raise ConfigError(
                    f"The shape {_described(name, shape)} has {axis} {size}; the model was "
                    f"exported for {bounds[0]} to {bounds[1]} pixels.",
                    "Export with a wider --size-range, or change the shape.",
                )

    def covers(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        """Whether the inputs take these shapes, as far as fixed dimensions and profiles say."""
        try:
            self.check_shapes(shapes)
        except DinatDeployError:
            return False
        return True


def _fits(own: Sequence[int | str], shape: Sequence[int]) -> bool:
    return len(own) == len(shape) and all(
        isinstance(fixed, str) or fixed == size for fixed, size in zip(own, shape, strict=True)
    )


def _described(name: str, shape: Sequence[int | str]) -> str:
    return f"{name}={'x'.join(str(size) for size in shape)}"
