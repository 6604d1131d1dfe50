"""A bundle's model in another precision: the ONNX file that ``convert`` makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from dinat_deploy.bundle import Bundle, Island, TensorSpec
from dinat_deploy.errors import ConfigError, ConversionError
from dinat_deploy.graph import islands, schema
from dinat_deploy.graph import precision as rewriting
from dinat_deploy.graph.formats import FORMATS, Format, QuantizedFormat, Rounding
from dinat_deploy.graph.pixels import take_pixels
from dinat_deploy.graph.quantization.records import Placement
from dinat_deploy.graph.quantization.sums import QuantizedSums
from dinat_deploy.graph.quantization.weights import capture
from dinat_deploy.graph.quantization.writer import quantize
from dinat_deploy.graph.ranges import Ranges
from dinat_deploy.graph.reading import load_ir
from dinat_deploy.pipeline import conversion_checks as checks
from dinat_deploy.pipeline.conversion_report import WeightReport
from dinat_deploy.pipeline.quantizing import QuantizeOptions, decide

IoType = Literal["fp32", "fp16", "uint8"]
# Of the outputs, and of the inputs but for pixels, which are uint8 and come last.
IO_TYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "uint8": ir.DataType.FLOAT}


@dataclass(frozen=True)
class Recipe:
    """What the new file is to be.

    Attributes:
        form: the 16-bit type of weights and activations; None leaves them in float32.
        io: type of the graph's inputs and outputs; with ``uint8`` the inputs are pixels, which the
            graph normalises, and the outputs float32.
        keep_float32: patterns of nodes that stay in float32 whatever the rules say.
        margin: the share of the type's largest number that recorded values may reach.
        quantized: what is quantized on top of that, and with which ranges.
    """

    form: Format | None
    io: IoType
    keep_float32: Sequence[str]
    margin: float
    quantized: QuantizeRecipe | None = None


@dataclass(frozen=True)
class QuantizeRecipe:
    """What is to be quantized.

    Attributes:
        ranges: tensor -> largest absolute value, of all that any options may quantize.
    """

    form: QuantizedFormat
    options: QuantizeOptions
    ranges: Mapping[str, float]


@dataclass(frozen=True)
class Made:
    """What was written.

    Attributes:
        islands: what stays in float32 though the rest does not.
        conversion: to the 16-bit type, if there is one.
        weights: what became of those that are stored in the 16-bit type.
        placement: where the model was quantized.
        raised: tensor -> how many of its scales were too small for their type.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    islands: list[Island]
    conversion: rewriting.Conversion
    weights: WeightReport | None
    placement: Placement | None = None
    raised: dict[str, int] = field(default_factory=dict)


def write(bundle: Bundle, file: Path, recipe: Recipe, ranges: Ranges) -> Made:
    """Write a bundle's model in another precision.

    Args:
        file: the new ONNX file; its weights go to a file beside it if they are too large.
        ranges: recorded with the float32 model.

    Raises:
        ConversionError: the model is not float32, or nothing is left to convert.
        ConfigError: a pattern names no node.
    """
    schema.register()
    model = load_ir(bundle.model_path)
    if recipe.io == "fp16":
        _check_io(model, ranges)
    quantized, placement, exact, raised = recipe.quantized, None, {}, {}
    if quantized is not None:
        placement = decide(model, quantized.form, quantized.options)
        exact = capture(model, placement)
    float32: dict[ir.Node, str] = {}
    conversion, weights = rewriting.Conversion(0, 0), None
    if recipe.form is not None:
        float32, roundings = _find_islands(model, recipe.form, recipe, ranges, placement)
        conversion = rewriting.convert(model, recipe.form, float32, IO_TYPES[recipe.io])
        if conversion.converted == 0 and quantized is None:
            raise ConversionError(
                f"All nodes would stay in float32, and none become {recipe.form.name}.",
                "Name fewer with --keep-float32, or build from the float32 model.",
            )
    if quantized is not None and placement is not None:
        raised = quantize(model, placement, quantized.ranges, quantized.form, exact).raised
    if recipe.form is not None:
        weights = _weight_report(model, recipe.form, roundings)
    if recipe.io == "uint8":
        how = bundle.manifest.preprocessing
        take_pixels(model, how.mean, how.std)
    checks.save(model, file)
    return Made(
        inputs=[_spec(value) for value in model.graph.inputs],
        outputs=[_spec(value) for value in model.graph.outputs],
        islands=_grouped(float32),
        conversion=conversion,
        weights=weights,
        placement=placement,
        raised=raised,
    )


def _find_islands(
    model: ir.Model,
    form: Format,
    recipe: Recipe,
    ranges: Ranges,
    placement: Placement | None,
) -> tuple[dict[ir.Node, str], dict[str, Rounding]]:
    """Nodes that stay in float32, and what rounding does to each weight."""
    roundings = islands.weight_roundings(model, form)
    asked: list[islands.Rule] = []
    if placement is not None:
        asked.append(QuantizedSums(model.graph, placement))
    asked += islands.rules(
        model,
        form,
        # bfloat16 has the range of float32.
        ranges=ranges if form.precision == "fp16" else None,
        weights=roundings,
        keep=recipe.keep_float32,
        margin=recipe.margin,
    )
    float32 = islands.find_islands(model, asked)
    _check_patterns(recipe.keep_float32, model)
    return float32, roundings


def _check_io(model: ir.Model, ranges: Ranges) -> None:
    largest = FORMATS["fp16"].largest
    for value in (*model.graph.inputs, *model.graph.outputs):
        found = ranges.tensors.get(str(value.name), 0.0)
        if found > largest:
            raise ConversionError(
                f"{value.name} reaches {found:.3g}, and float16 ends at {largest:g}.",
                "Leave inputs and outputs in float32 (--io fp32).",
            )


def _check_patterns(keep: Sequence[str], model: ir.Model) -> None:
    for pattern in keep:
        rule = islands.Requested([pattern])
        if not any(rule.reason(node) for node in model.graph):
            raise ConfigError(
                f"No node is named like {pattern!r}.",
                f"Names look like {model.graph[0].name}; `dinat-deploy inspect` shows more.",
            )


def _spec(value: ir.Value) -> TensorSpec:
    assert value.shape is not None and value.dtype is not None and value.name is not None
    shape = [dim if isinstance(dim, int) else str(dim) for dim in value.shape]
    return TensorSpec(name=value.name, dtype=value.dtype.name.lower(), shape=shape)


def _grouped(float32: Mapping[ir.Node, str]) -> list[Island]:
    """Nodes by their reason, the most frequent reason first."""
    groups: dict[str, list[str]] = {}
    for node, reason in float32.items():
        groups.setdefault(reason, []).append(str(node.name))
    ordered = sorted(groups.items(), key=lambda entry: -len(entry[1]))
    return [Island(reason=reason, nodes=nodes) for reason, nodes in ordered]


def _weight_report(
    model: ir.Model, form: Format, roundings: Mapping[str, Rounding]
) -> WeightReport:
    # A weight that is needed in both types has the format's name after its own.
    names = {
        str(value.name).removesuffix(f"/{form.name}")
        for value in model.graph.initializers.values()
        if value.dtype == form.data_type
    }
    stored = {name: found for name, found in roundings.items() if name in names}
    values = sum(found.values for found in stored.values())
    worst = max(stored, key=lambda name: stored[name].error, default="")
    return WeightReport(
        values=values,
        subnormal=sum(found.subnormal for found in stored.values()) / max(values, 1),
        lost=sum(found.lost for found in stored.values()),
        worst=worst,
        worst_error=stored[worst].error if worst else 0.0,
    )
