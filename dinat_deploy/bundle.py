"""The bundle: a directory with an exported model and all that is needed to use and check it.

    model.onnx       the model (with model.onnx.data beside it over 2 GB)
    model.json       this manifest: architecture, weights, preprocessing, labels, versions
    reference.npz    inputs and PyTorch's outputs for them, for targets without PyTorch
    model.fp16.onnx  and others of the kind: variants, the model in another precision
    calibration.json ranges of the model's tensors; calibration.npz what they were taken from

Reading a bundle needs neither torch nor onnx.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dinat_deploy.archives import DamagedError, read_arrays
from dinat_deploy.errors import BundleError
from dinat_deploy.files import sha256
from dinat_deploy.models.config import ModelConfig, describe
from dinat_deploy.models.datasets import Color
from dinat_deploy.models.limits import LARGEST_SIDE
from dinat_deploy.models.preprocessing import Preprocessing

MODEL = "model.onnx"
EXTERNAL_DATA = "model.onnx.data"
MANIFEST = "model.json"
REFERENCE = "reference.npz"
CALIBRATION, HISTOGRAMS = "calibration.json", "calibration.npz"
# 2 has variants, 3 quantized ones and ones that take pixels, 4 colours of classes, decoders other
# than UPerNet's, and pictures that are filled up. A manifest is written in the oldest format that
# can say what it says, for readers that know only that.
FORMAT_VERSION = 4

VariantPrecision = Literal["fp16", "bf16", "int8", "fp8"]
VariantFile = Annotated[str, Field(pattern=r"^model\.[a-z0-9]+\.onnx$")]
FloatArray = npt.NDArray[np.float32]


def _is_size(size: int | str) -> bool:
    return isinstance(size, str) or 1 <= size <= LARGEST_SIDE


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Weights(_Record):
    """Where the weights came from; the digest is over names, shapes and values."""

    source: Literal["seeded", "checkpoint", "pretrained", "module"]
    origin: str
    sha256: str
    seed: int | None = None
    notes: list[str] = Field(default_factory=list)


class TensorSpec(_Record):
    """An input or output; dimensions that are names are dynamic."""

    name: str
    dtype: str
    shape: list[int | str]

    def __str__(self) -> str:
        return f"{self.name} [{' x '.join(map(str, self.shape))}] {self.dtype}"

    @property
    def kind(self) -> tuple[str, str, int]:
        """What must agree of two descriptions: name, type and number of dimensions."""
        return self.name, self.dtype, len(self.shape)

    def holds(self, array: npt.NDArray[np.generic]) -> bool:
        """Whether an array has this type and, where it is fixed, this shape."""
        dtype = {"float": "float32", "double": "float64"}.get(self.dtype, self.dtype)
        return (
            array.dtype.name == dtype
            and array.ndim == len(self.shape)
            and all(
                isinstance(fixed, str) or fixed == size
                for fixed, size in zip(self.shape, array.shape, strict=True)
            )
        )


class GraphInfo(_Record):
    """The ONNX file. ``size_range`` bounds dynamic heights and widths in pixels."""

    sha256: str
    opset: int
    ir_version: int
    body: bool
    inputs: list[TensorSpec] = Field(min_length=1)
    outputs: list[TensorSpec] = Field(min_length=1)
    size_range: tuple[int, int] | None = None
    op_nodes: int

    @model_validator(mode="after")
    def _check(self) -> GraphInfo:
        for spec in self.inputs:
            if len(spec.shape) != 4 or not all(_is_size(size) for size in spec.shape):
                raise ValueError(f"{spec} takes no images: a shape [batch, C, H, W] is expected")
        return self


class Verification(_Record):
    """The comparison with PyTorch made at export: worst case over all inputs and outputs."""

    passed: bool
    cases: int
    max_abs_error: float
    max_reference: float
    atol: float
    rtol: float
    runtime: str


class Island(_Record):
    """Nodes of a variant that compute in float32, and why."""

    reason: str
    nodes: list[str]


class VariantVerification(Verification):
    """The comparison of a variant with PyTorch: the worst of all inputs, outputs and ways to run.

    Attributes:
        cosine: of the angle between a variant's output and PyTorch's.
        argmax_agreement: share of the images with the same best class; None if there are none.
        simulated: whether nothing but a simulation ran: float32 arithmetic, with every tensor of
            the variant's type rounded to it.
    """

    cosine: float
    argmax_agreement: float | None = None
    simulated: bool = False


class Quantization(_Record):
    """How a variant was quantized.

    Attributes:
        rest: what the other nodes compute in, but for those that stay in float32.
        nodes: products whose factors are quantized.
        excluded: products that are not, by reason.
        pairs: further tensors that are quantized, such as residual sums.
        macs: share of the model's multiply-accumulates that the nodes do (0 to 1).
        estimator: of the ranges of activations.
        calibration_sha256: of the ``calibration.json`` that they were taken from.
    """

    rest: Literal["fp32", "fp16", "bf16"]
    nodes: list[str]
    excluded: list[Island] = Field(default_factory=list)
    pairs: list[str] = Field(default_factory=list)
    macs: float
    estimator: str
    calibration_sha256: str


class Variant(_Record):
    """The model in another precision, in an ONNX file of its own beside ``model.onnx``.

    An input of type uint8 takes pixels, 0 to 255, in the layout of ``model.onnx``; the graph
    normalises them.

    Attributes:
        sha256: of the ONNX file; ``data_sha256`` of its external data if it has any.
        float32: what stays in float32.
        quantization: of a quantized variant.
        created_by: the tool and its version.
    """

    precision: VariantPrecision
    sha256: str
    data_sha256: str | None = None
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    float32: list[Island] = Field(default_factory=list)
    quantization: Quantization | None = None
    verification: VariantVerification | None = None
    created_by: str

    @property
    def takes_pixels(self) -> bool:
        """Whether its inputs are pixels, which the graph normalises."""
        return any(spec.dtype == "uint8" for spec in self.inputs)

    @property
    def _format(self) -> Literal[2, 3]:
        return 3 if self.quantization is not None or self.takes_pixels else 2


class Manifest(_Record):
    """Content of ``model.json``.

    Attributes:
        labels: names of the classes; ``palette`` their colours (red, green, blue, 0 to 255), and
            ``things`` the numbers of those whose instances are counted apart.
        variants: by the name of their file.
    """

    format_version: Literal[1, 2, 3, 4] = 1
    name: str
    config: ModelConfig
    weights: Weights
    preprocessing: Preprocessing
    labels: list[str] | None = None
    palette: list[Color] | None = None
    things: list[int] | None = None
    graph: GraphInfo
    taps: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    verification: Verification | None = None
    variants: dict[VariantFile, Variant] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        classes, channels = self.config.num_classes, self.config.in_channels
        for name in ("labels", "palette"):
            listed = getattr(self, name)
            if listed and len(listed) != classes:
                raise ValueError(f"{name} are {len(listed)}, and the model has {classes} classes")
        if any(not 0 <= number < classes for number in self.things or ()):
            raise ValueError(f"things are classes below {classes}, and {self.things} are listed")
        if len(self.preprocessing.mean) != channels:
            raise ValueError(
                f"preprocessing is for {len(self.preprocessing.mean)} channels, and the model has "
                f"{channels}"
            )
        return self

    def with_variants(self, variants: dict[str, Variant]) -> Manifest:
        """The same with these variants, in the format that they need."""
        ordered = dict(sorted(variants.items()))
        changed = self.model_copy(update={"variants": ordered})
        return changed.model_copy(update={"format_version": changed._format})

    @property
    def _format(self) -> int:
        decoder = self.config.decoder
        newer = decoder is not None and decoder.type != "upernet"
        if newer or self.palette or self.things or self.preprocessing.resize_mode == "contain":
            return 4
        return max((variant._format for variant in self.variants.values()), default=1)

    def to_json(self) -> str:
        empty = {name for name in ("palette", "things", "variants") if not getattr(self, name)}
        data = self.model_dump(mode="json", exclude=empty) | {"format_version": self._format}
        for variant in data.get("variants", {}).values():
            if variant["quantization"] is None:
                del variant["quantization"]
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Case:
    """Inputs and what PyTorch made of them, by tensor name."""

    name: str
    inputs: dict[str, FloatArray]
    outputs: dict[str, FloatArray]


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest has been read."""

    path: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        return self.path / MODEL

    @property
    def variants(self) -> dict[str, Variant]:
        """The model in other precisions, by the name of the ONNX file."""
        return self.manifest.variants

    def variant_path(self, precision: str) -> Path:
        """The ONNX file of a precision (``fp32`` is ``model.onnx``).

        Raises:
            BundleError: the bundle has no such variant.
        """
        if precision == "fp32":
            return self.model_path
        for file, variant in self.variants.items():
            if variant.precision == precision:
                return self.path / file
        have = ["fp32", *(variant.precision for variant in self.variants.values())]
        raise BundleError(
            f"{self.path} has no {precision} model, only {', '.join(have)}.",
            f"Make it with `dinat-deploy convert {self.path} --precision {precision}`.",
        )

    def check_model(self, file: str = MODEL) -> None:
        """Raise :class:`BundleError` if an ONNX file is missing or not the one that was written.

        Args:
            file: ``model.onnx``, or the file of a variant.
        """
        again, known = self._digests(file)
        for name, expected in known.items():
            path = self.path / name
            if not path.is_file():
                raise BundleError(f"{self.path} has no {name}.", f"{again}.")
            actual = sha256(path)
            if actual != expected:
                raise BundleError(
                    f"{path} has SHA-256 {actual[:12]}..., and {MANIFEST} was written for "
                    f"{expected[:12]}....",
                    f"{again}; a bundle's file must not be edited.",
                )

    def digest(self, file: str = MODEL) -> str:
        """Recorded SHA-256 of an ONNX file; raises BundleError if the manifest does not list it."""
        return self._digests(file)[1][file]

    def _digests(self, file: str) -> tuple[str, dict[str, str]]:
        """How to make a file again, and the digests of it and its external data."""
        if file == MODEL:
            return "Export the model again", {MODEL: self.manifest.graph.sha256}
        variant = self.variants.get(file)
        if variant is None:
            raise BundleError(
                f"{self.path / file} is not in {MANIFEST}, which lists "
                f"{', '.join([MODEL, *self.variants])}.",
                "Make variants with `dinat-deploy convert`.",
            )
        known = {file: variant.sha256}
        if variant.data_sha256 is not None:
            known[external_data_name(file)] = variant.data_sha256
        return "Convert the model again", known

    def reference(self) -> list[Case]:
        """The recorded cases.

        Raises:
            BundleError: the file is missing, damaged, or does not have the model's inputs.
        """
        path = self.path / REFERENCE
        graph = self.manifest.graph
        expected = {spec.name for spec in graph.inputs}, {spec.name for spec in graph.outputs}
        cases = read_cases(path)
        for case in cases:
            if (set(case.inputs), set(case.outputs)) != expected:
                raise BundleError(
                    f"{path}: case {case.name} has tensors {sorted({*case.inputs, *case.outputs})},"
                    f" the model has {sorted(expected[0] | expected[1])}.",
                    "Export the model again.",
                )
            for spec in (*graph.inputs, *graph.outputs):
                array = (case.inputs | case.outputs)[spec.name]
                # Recorded are float32 values, whatever the type of an output.
                as_recorded = spec.model_copy(update={"dtype": "float"})
                if not (spec.holds(array) or as_recorded.holds(array)):
                    raise BundleError(
                        f"{path}: {spec.name} of case {case.name} is {array.dtype} "
                        f"{list(array.shape)}, and the model's is {spec.dtype} {spec.shape}.",
                        "Export the model again.",
                    )
        return cases

    def check_interface(
        self, file: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        """Raise :class:`BundleError` if an ONNX file takes or gives others than the manifest says.

        Args:
            file: ``model.onnx``, or the file of a variant.
            inputs, outputs: of that file.
        """
        said = self.variants.get(file, self.manifest.graph)
        for kind, found, known in (
            ("inputs", inputs, said.inputs),
            ("outputs", outputs, said.outputs),
        ):
            if [spec.kind for spec in found] != [spec.kind for spec in known]:
                ours, theirs = (", ".join(map(str, specs)) or "none" for specs in (found, known))
                raise BundleError(
                    f"{self.path / file} has the {kind} {ours}, and {MANIFEST} says {theirs}.",
                    "Export the model again.",
                )


def variant_name(precision: VariantPrecision) -> str:
    """Name of the ONNX file of a precision."""
    return f"model.{precision}.onnx"


def external_data_name(file: str) -> str:
    """Name of the file with the weights of an ONNX file over 2 GB."""
    return f"{file}.data"


def is_bundle(path: Path) -> bool:
    """Whether a directory was written by ``export``."""
    try:
        data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "format_version" in data


def open_bundle(path: str | Path) -> Bundle:
    """Read a bundle's manifest.

    Raises:
        BundleError: it is no bundle, of a newer format, or its manifest is invalid.
    """
    path = Path(path)
    manifest = path / MANIFEST
    if not path.exists():
        raise BundleError(f"There is no bundle {path}.", "Make one with `dinat-deploy export`.")
    try:
        data = json.loads(manifest.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(
            f"{path} is not a bundle: it has no {MANIFEST}.",
            "Pass a directory written by `dinat-deploy export`.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{manifest} is not readable JSON: {error}.", "Export again.") from None
    version = data.get("format_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BundleError(
            f"{manifest} has format {version}; this dinat-deploy reads up to {FORMAT_VERSION}.",
            "Upgrade dinat-deploy.",
        )
    try:
        return Bundle(path, Manifest.model_validate(data))
    except ValidationError as error:
        raise BundleError(describe(error, f"{manifest} is not valid"), "Export again.") from None


def model_digest(directory: Path) -> str:
    """SHA-256 of the ONNX file (its external data is covered by the weights' digest)."""
    return sha256(directory / MODEL)


def write_cases(path: Path, cases: Sequence[Case]) -> None:
    """Record cases as ``<case>/in/<tensor>`` and ``<case>/out/<tensor>`` arrays."""
    arrays: dict[str, FloatArray] = {}
    for case in cases:
        arrays |= {f"{case.name}/in/{name}": array for name, array in case.inputs.items()}
        arrays |= {f"{case.name}/out/{name}": array for name, array in case.outputs.items()}
    np.savez(path, allow_pickle=False, **arrays)


def read_cases(path: Path) -> list[Case]:
    """Cases written by :func:`write_cases`; raises BundleError if the file is damaged."""
    cases: dict[str, Case] = {}
    try:
        arrays = read_arrays(path)
    except FileNotFoundError:
        raise BundleError(f"There is no {path}.", "Export the model again.") from None
    except DamagedError as error:
        raise BundleError(f"{path} is damaged: {error}.", "Export the model again.") from None
    for key, array in arrays.items():
        name, _, rest = key.partition("/")
        side, _, tensor = rest.partition("/")
        entry = cases.setdefault(name, Case(name, {}, {}))
        held = {"in": entry.inputs, "out": entry.outputs}.get(side)
        if held is None:
            raise BundleError(
                f"{path} is damaged: {key!r} is neither an input nor an output of a case.",
                "Export the model again.",
            )
        held[tensor] = array
    if not cases:
        raise BundleError(f"{path} holds no cases.", "Export the model again.")
    return list(cases.values())
