"""A model that is to be served: an ONNX file or an engine, and the bundle that it belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dinat_deploy.bundle import Bundle, TensorSpec
from dinat_deploy.engine.manifest import Engine
from dinat_deploy.engine.onnx_file import OnnxFile
from dinat_deploy.engine.profiles import Profile
from dinat_deploy.models.preprocessing import Preprocessing
from dinat_deploy.serving.problems import PackageError

# Images of a batch that an ONNX file with a dynamic one is served in, unless the user says.
DEFAULT_MAX_BATCH = 8
# Of a library: start.sh and run.sh quote the name, and it must stay in its folder.
_LIBRARY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Network:
    """What is to be served.

    Attributes:
        name: under which it is served.
        onnx, engine: exactly one of them.
        bundle: None if it is not known; then nothing says how pictures become inputs.
        library: that runs the operator: ONNX Runtime's for ``onnx``, the plugin for ``engine``.
        notes: what the user should know of how it was found.
    """

    name: str
    onnx: OnnxFile | None = None
    engine: Engine | None = None
    bundle: Bundle | None = None
    library: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def source(self) -> Path:
        """The ONNX file or the directory of the engine."""
        if self.onnx is not None:
            return self.onnx.path
        assert self.engine is not None
        return self.engine.path

    @property
    def library_name(self) -> str | None:
        """What the library is called in a package: as the engine's manifest calls it.

        Raises:
            PackageError: that is no name for a file in a package.
        """
        if self.library is None:
            return None
        plugin = self.engine.manifest.plugin if self.engine is not None else None
        name = plugin.library if plugin is not None else self.library.name
        if _LIBRARY_NAME.fullmatch(name) is None:
            raise PackageError(
                f"{self.source} calls its library {name!r}, which is no name that a package can "
                "hold.",
                "Build it again with a library whose name has letters, digits, dots, hyphens and "
                "underscores only.",
            )
        return name

    @property
    def inputs(self) -> list[TensorSpec]:
        return self._tensors("inputs")

    @property
    def outputs(self) -> list[TensorSpec]:
        return self._tensors("outputs")

    def _tensors(self, side: str) -> list[TensorSpec]:
        if self.engine is not None:
            listed: list[TensorSpec] = getattr(self.engine.manifest, side)
            return listed
        assert self.onnx is not None
        return self.onnx.input_specs if side == "inputs" else self.onnx.output_specs

    @property
    def batched(self) -> bool:
        """Whether the first dimension of every input and output is one dynamic batch."""
        shapes = [spec.shape for spec in (*self.inputs, *self.outputs)]
        first = {shape[0] if shape else None for shape in shapes}
        return all(isinstance(size, str) for size in first) and (
            # TensorRT does not keep the names of dynamic dimensions.
            len(first) == 1 or self.engine is not None
        )

    def profile(self, number: int) -> Profile:
        """Shapes that an engine was built for; empty for an ONNX file, or if all are fixed.

        Raises:
            PackageError: the engine has no such profile.
        """
        if self.engine is None or not self.engine.manifest.profiles:
            return {}
        profiles = self.engine.manifest.profiles
        if number >= len(profiles):
            raise PackageError(
                f"{self.source} has {len(profiles)} optimisation profiles, and number {number} is "
                "asked for.",
                f"They are counted from 0: name one up to {len(profiles) - 1} with --profile.",
            )
        return profiles[number]

    def max_batch(self, asked: int | None, number: int) -> int:
        """``max_batch_size`` of Triton: 0 if the model's batch is fixed.

        Args:
            asked: what the user wants; None for the largest of the profile, or 8.
            number: of the engine's profile.

        Raises:
            PackageError: the model does not take such batches.
        """
        if not self.batched:
            if asked:
                listed = ", ".join(described(spec.name, spec.shape) for spec in self._mixed())
                raise PackageError(
                    f"Batches of up to {asked} are asked for, and {self.source} has a fixed batch: "
                    f"{listed}.",
                    "Export it with --dynamic batch, or leave --max-batch out.",
                )
            return 0
        bounds = list(self.profile(number).values())
        most = min((ranges.max[0] for ranges in bounds), default=None)
        least = max((ranges.min[0] for ranges in bounds), default=1)
        chosen = (most or DEFAULT_MAX_BATCH) if asked is None else asked
        if most is not None and chosen > most:
            raise PackageError(
                f"Batches of up to {chosen} are asked for, and {self.source} was built for up to "
                f"{most}.",
                "Build it with a larger --profile, or ask for less with --max-batch.",
            )
        if least > 1:
            raise PackageError(
                f"{self.source} was built for batches from {least} on, and Triton passes on single "
                "requests too.",
                "Build it with a --profile that begins at one image.",
            )
        return chosen

    def _mixed(self) -> Sequence[TensorSpec]:
        """The tensors whose batch is fixed."""
        tensors = [*self.inputs, *self.outputs]
        fixed = [s for s in tensors if not s.shape or isinstance(s.shape[0], int)]
        return fixed or tensors

    def preprocessing(self, number: int) -> Preprocessing | None:
        """How pictures become this model's input; None if it takes none, or nothing says.

        Args:
            number: of the engine's profile.
        """
        if self.bundle is None or len(self.inputs) != 1 or len(self.inputs[0].shape) != 4:
            return None
        known, spec = self.bundle.manifest.preprocessing, self.inputs[0]
        ranges = self.profile(number).get(spec.name)
        size = []
        for axis in (2, 3):
            fixed, own = spec.shape[axis], known.crop[axis - 2]
            if isinstance(fixed, int):
                size.append(fixed)
            elif ranges is not None and not ranges.min[axis] <= own <= ranges.max[axis]:
                size.append(ranges.opt[axis])
            else:
                size.append(own)
        return known.with_crop((size[0], size[1]))

    @property
    def classifies(self) -> bool:
        """Whether its one output is a classifier's logits, ``[B, classes]``."""
        if self.bundle is None or len(self.outputs) != 1:
            return False
        config = self.bundle.manifest.config
        return config.decoder is None and config.num_classes > 1 and len(self.outputs[0].shape) == 2

    @property
    def labels(self) -> list[str] | None:
        """Names of the classes, if they are known."""
        return self.bundle.manifest.labels if self.bundle is not None else None


def described(name: str, shape: Sequence[int | str]) -> str:
    """``image [batch x 3 x 224 x 224]``"""
    return f"{name} [{' x '.join(str(size) for size in shape)}]"
