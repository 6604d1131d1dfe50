"""INT8 and FP8 for ``convert``: which nodes, from which recorded ranges."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import onnx_ir as ir
from pydantic import ValidationError

from dinat_deploy.bundle import CALIBRATION, Bundle, Island, Quantization
from dinat_deploy.calibration.estimators import SUITED
from dinat_deploy.calibration.patterns import read_patterns
from dinat_deploy.calibration.record import ESTIMATORS, Calibration, Estimator
from dinat_deploy.errors import BundleError, ConfigError
from dinat_deploy.files import sha256
from dinat_deploy.graph.formats import FORMATS, Format, QuantizedFormat, QuantizedPrecision
from dinat_deploy.graph.quantization.placement import place
from dinat_deploy.graph.quantization.records import Placement
from dinat_deploy.graph.quantization.rules import rules
from dinat_deploy.measurement.onnx_work import macs_by_node
from dinat_deploy.models.config import describe

Rest = Literal["fp32", "fp16", "bf16"]
DEFAULT_ESTIMATORS: Mapping[QuantizedPrecision, Estimator] = {"int8": "percentile", "fp8": "max"}


@dataclass(frozen=True)
class QuantizeOptions:
    """How a model is quantized.

    Attributes:
        rest: what all other nodes compute in, but for those that stay in float32.
        estimator: of the activations' ranges: ``percentile``, ``entropy``, ``mse`` or ``max``; by
            default the first for int8 and the last for fp8.
        exclude: patterns (``levels.3.*``) of nodes that are not quantized.
        include: patterns of nodes that are, though a rule would leave them out.
        head: quantize the last product before each output, too.
        residual: quantize the shortcuts of residual sums.
        attention: quantize what the attention operator reads.
    """

    rest: Rest = "fp16"
    estimator: Estimator | None = None
    exclude: Sequence[str] = ()
    include: Sequence[str] = ()
    head: bool = False
    residual: bool = False
    attention: bool = False

    def __post_init__(self) -> None:
        if self.rest not in get_args(Rest):
            raise ConfigError(
                f"The rest of the model cannot be in {self.rest!r}.",
                f"Use {', '.join(get_args(Rest))}.",
            )
        if self.estimator is not None and self.estimator not in ESTIMATORS:
            raise ConfigError(
                f"There is no estimator {self.estimator!r}.", f"Use {', '.join(ESTIMATORS)}."
            )

    def estimator_for(self, precision: QuantizedPrecision) -> Estimator:
        """The estimator for a format.

        Raises:
            ConfigError: it says nothing about this one.
        """
        suited = SUITED[precision]
        found = self.estimator or DEFAULT_ESTIMATORS[precision]
        if found not in suited:
            raise ConfigError(
                f"The estimator {found} assumes levels of equal distance, which {precision} does "
                "not have.",
                f"Use {' or '.join(suited)}.",
            )
        return found

    @property
    def form(self) -> Format | None:
        """Of the other nodes; None if they stay in float32."""
        return FORMATS.get(self.rest)


def read_calibration(bundle: Bundle) -> Calibration:
    """The ranges recorded for a bundle's model.

    Raises:
        BundleError: there are none, or they were recorded with another model.
    """
    path = bundle.path / CALIBRATION
    again = f"Record ranges with `dinat-deploy calibrate {bundle.path} --data IMAGES`."
    try:
        found = Calibration.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{bundle.path} has no {CALIBRATION}.", again) from None
    except ValidationError as error:
        raise BundleError(describe(error, f"{path} is not valid"), again) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}.", again) from None
    if found.model_sha256 != bundle.digest():
        raise BundleError(
            f"{path} was recorded with a model of SHA-256 {found.model_sha256[:12]}..., and the "
            f"bundle's is {bundle.digest()[:12]}....",
            again,
        )
    return found


def ranges_of(bundle: Bundle, estimator: Estimator) -> dict[str, float]:
    """Tensor -> its recorded range by an estimator.

    The model's inputs take their largest value whatever the estimator is: pictures have no
    outliers, but often one colour that fills most of them, which entropy would keep at the expense
    of all others.

    Raises:
        BundleError: as of :func:`read_calibration`.
    """
    calibration = read_calibration(bundle)
    found = calibration.estimates(estimator)
    for spec in bundle.manifest.graph.inputs:
        if spec.name in found:
            found[spec.name] = calibration.ranges[spec.name].max
    return found


def quantizable_tensors(model: ir.Model, form: QuantizedFormat) -> list[str]:
    """All tensors that any options may quantize, in the order of the graph."""
    everything = place(
        model, rules(model, form, head=True, include=["*"]), residual=True, attention=True
    )
    return everything.tensors


def decide(model: ir.Model, form: QuantizedFormat, options: QuantizeOptions) -> Placement:
    """Where a float32 model is quantized.

    Raises:
        ConfigError: a pattern names no product with weights, or nothing is left to quantize.
        ConversionError: the model is not float32, or is quantized already.
    """
    asked = rules(model, form, exclude=options.exclude, include=options.include, head=options.head)
    found = place(model, asked, residual=options.residual, attention=options.attention)
    _check_patterns(options, found)
    if not found.sites:
        raise ConfigError(
            f"No node is left to compute in {form.name}.", "Exclude fewer, or use fp16."
        )
    return found


def _check_patterns(options: QuantizeOptions, placement: Placement) -> None:
    names = [*(site.node for site in placement.sites), *placement.skipped]
    for pattern in (*options.exclude, *options.include):
        if not fnmatch.filter(names, pattern):
            some = ", ".join(names[:3])
            raise ConfigError(
                f"No node that could be quantized is named like {pattern!r}.",
                f"Names look like {some}; `*` stands for anything.",
            )


def describe_quantization(
    bundle: Bundle,
    placement: Placement,
    precision: QuantizedPrecision,
    options: QuantizeOptions,
    shapes: Mapping[str, Sequence[int]],
) -> Quantization:
    """The record of what was quantized, for the manifest.

    Args:
        shapes: of the inputs, to count the multiply-accumulates with.
    """
    macs = macs_by_node(bundle.model_path, shapes)
    nodes = [site.node for site in placement.sites]
    groups: dict[str, list[str]] = {}
    for node, reason in placement.skipped.items():
        groups.setdefault(reason, []).append(node)
    return Quantization(
        rest=options.rest,
        nodes=nodes,
        excluded=[Island(reason=reason, nodes=group) for reason, group in groups.items()],
        pairs=[pair.tensor for pair in placement.pairs],
        macs=sum(macs.get(node, 0) for node in nodes) / max(sum(macs.values()), 1),
        estimator=options.estimator_for(precision),
        calibration_sha256=sha256(bundle.path / CALIBRATION),
    )


def options_from(arguments: Mapping[str, Any]) -> QuantizeOptions:
    """Options as the command line names them; patterns ``@FILE`` are read from the file.

    Raises:
        ConfigError: a file of patterns cannot be read, or an option has an impossible value.
    """
    arguments = dict(arguments)
    for name in ("exclude", "include"):
        if name in arguments:
            arguments[name] = read_all_patterns(arguments[name])
    return QuantizeOptions(**arguments)


def read_all_patterns(patterns: Iterable[str]) -> list[str]:
    """Patterns, those of files (``@FILE``) in their place.

    Raises:
        ConfigError: a file cannot be read.
    """
    found: list[str] = []
    for pattern in patterns:
        found += read_patterns(Path(pattern[1:])) if pattern.startswith("@") else [pattern]
    return found
