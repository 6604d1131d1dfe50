"""PyTorch module -> ONNX model, the neighborhood attention in it as one node each."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import values as script

from dinat_deploy import __version__
from dinat_deploy.errors import ExportError
from dinat_deploy.graph import detection, expansion, functions, fusion, interim, passes, schema
from dinat_deploy.ops import library, non_maximum_suppression, roi_align, unfused
from dinat_deploy.progress import Progress, Silent

MIN_OPSET, MAX_OPSET = 17, 21
# The highest that TensorRT 10.3 (JetPack 6) reads.
DEFAULT_OPSET = 20
# What the exporter of PyTorch writes at least; lower versions are made from it.
_EXPORTER_OPSET = 18
# Names of operators of PyTorch.
_ASSERTIONS = (
    "aten._assert_scalar.default",
    "aten._assert_async.default",
    "aten._assert_async.msg",
)
_DINAT = script.Opset(schema.DOMAIN, schema.OPSET_VERSION)


@dataclass(frozen=True)
class ExportedGraph:
    """An exported model.

    Attributes:
        model: the ONNX model; its weights still refer to the module's memory.
        taps: module path -> tensor name for the modules asked for, in order.
    """

    model: ir.Model
    taps: dict[str, str]


def to_onnx(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic: Sequence[Mapping[int, torch.export.Dim]] = (),
    opset: int = DEFAULT_OPSET,
    with_body: bool = True,
    tap_modules: Sequence[str] = (),
    keep_parameters: bool = True,
    progress: Progress | None = None,
) -> ExportedGraph:
    """Export a module that uses the operators of :mod:`dinat_deploy.ops`.

    Args:
        inputs: example inputs; a dynamic batch must not be 0 or 1 in them.
        dynamic: for each input the dynamic axes, ``{axis: torch.export.Dim(name)}``.
        opset: version of the standard operators, 17 to 21.
        with_body: attach the operator's body in standard operators.
        tap_modules: paths of submodules whose outputs keep the module's name in the graph.
        keep_parameters: leave each parameter as the module has it, so that it can be read back;
            otherwise what is computed of parameters alone is one constant.

    Raises:
        ExportError: the module cannot be traced or translated.
    """
    progress = progress or Silent()
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ExportError(
            f"Opset {opset} is not supported.", f"Choose one from {MIN_OPSET} to {MAX_OPSET}."
        )
    schema.register()
    interim.register()
    with _quiet_exporter():
        with progress.stage("Tracing the PyTorch model"):
            program = _trace(module, inputs, dynamic)
        with progress.stage("Translating to ONNX"):
            translated = _translate(program, input_names, output_names, opset)
    with progress.stage("Simplifying the graph"):
        fusion.fuse(translated)
        expansion.expand(translated)
        taps = passes.simplify(
            translated, tap_modules, module.state_dict() if keep_parameters else ()
        )
        passes.rename_dimensions(translated, _dimension_names(translated, dynamic))
        if opset < _EXPORTER_OPSET:
            passes.lower_to_opset_17(translated)
        _describe(translated, opset)
        if with_body:
            functions.attach_body(translated)
    return ExportedGraph(translated, taps)


def _trace(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    dynamic: Sequence[Mapping[int, torch.export.Dim]],
) -> torch.export.ExportedProgram:
    try:
        with torch.no_grad():
            program = torch.export.export(
                module.eval(),
                tuple(inputs),
                dynamic_shapes=tuple(dict(axes) for axes in dynamic) if dynamic else None,
                strict=False,
                # Zero-padding small maps compares symbolic sizes; that must not restrict them.
                prefer_deferred_runtime_asserts_over_guards=bool(dynamic),
            )
    except Exception as error:
        raise ExportError(
            f"torch.export could not trace {type(module).__name__}: {_first_line(error)}",
            "Python control flow on tensor values or sizes must be removed from forward().",
        ) from error
    _drop_assertions(program)
    return program


def _drop_assertions(program: torch.export.ExportedProgram) -> None:
    """Remove a module's checks of its own tensors and what is computed for them alone: ONNX has
    nothing to express them with."""
    graph = program.graph
    for node in reversed(graph.nodes):
        if str(node.target) in _ASSERTIONS and not node.users:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _translate(
    program: torch.export.ExportedProgram,
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int,
) -> ir.Model:
    try:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            optimize=False,
            opset_version=max(opset, _EXPORTER_OPSET),
            input_names=list(input_names),
            output_names=list(output_names),
            custom_translation_table=_translations(),
        )
    except Exception as error:
        raise ExportError(
            f"torch.onnx could not translate the model: {_first_line(error)}",
            "Replace the operation that it names by standard PyTorch operations.",
        ) from error
    assert exported is not None
    return exported.model


def _first_line(error: BaseException) -> str:
    """The sentence of the innermost cause; exporter messages are pages long."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    namespace = getattr(torch.ops, library.NAMESPACE)
    return {
        namespace.neighborhood_attention_qkv.default: _packed_node,
        namespace.neighborhood_attention.default: _split_node,
        unfused.SCORES: _scores_node,
        unfused.COMBINE: _combine_node,
        roi_align.OPERATOR: detection.roi_align_node,
        non_maximum_suppression.OPERATOR: detection.suppression_nodes,
    }


def _static_size(sizes: Sequence[Any]) -> tuple[int, int] | None:
    height, width = sizes
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _packed_node(
    qkv: Any,
    rpb: Any,
    num_heads: int,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> Any:
    """Translate ``dinat::neighborhood_attention_qkv`` into one packed node."""
    shape = qkv.shape
    attributes = schema.node_attributes(
        num_heads=num_heads,
        kernel_size=kernel_size,
        dilation=dilation,
        scale=scale,
        head_dim=shape[-1] // (3 * num_heads),
        size=_static_size(shape[1:3]),
    )
    return getattr(_DINAT, schema.PACKED)(qkv, rpb, **attributes)


def _split_node(
    query: Any,
    key: Any,
    value: Any,
    rpb: Any,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    scale: float,
) -> Any:
    """Translate ``dinat::neighborhood_attention`` into one node with separate q, k and v."""
    if len(kernel_size) != 2 or any(s != 1 for s in stride) or any(is_causal):
        windows = interim.window_attributes(kernel_size, dilation, stride, is_causal)
        return getattr(_DINAT, interim.GENERAL)(query, key, value, rpb, scale=scale, **windows)
    shape = query.shape
    attributes = schema.node_attributes(
        num_heads=shape[-2],
        kernel_size=kernel_size,
        dilation=dilation,
        scale=scale,
        head_dim=shape[-1],
        size=_static_size(shape[1:3]),
    )
    return getattr(_DINAT, schema.SPLIT)(query, key, value, rpb, **attributes)


def _scores_node(query: Any, key: Any, rpb: Any, *settings: Any) -> Any:
    """Translate ``dinat::neighborhood_scores``; a missing entry is minus infinity there."""
    windows = interim.window_attributes(*settings[:4])
    return getattr(_DINAT, interim.SCORES)(query, key, rpb, **windows)


def _combine_node(weights: Any, value: Any, *settings: Any) -> Any:
    """Translate ``dinat::neighborhood_combine``."""
    return getattr(_DINAT, interim.COMBINE)(weights, value, **interim.window_attributes(*settings))


def _dimension_names(
    model: ir.Model, dynamic: Sequence[Mapping[int, torch.export.Dim]]
) -> dict[str, str]:
    """Symbol that the exporter made up (``s77``) -> name that the caller gave."""
    names = {}
    for value, axes in zip(model.graph.inputs, dynamic, strict=False):
        for axis, dim in axes.items():
            found = value.shape[axis] if value.shape is not None else None
            if isinstance(found, ir.SymbolicDim) and found.value is not None:
                names[found.value] = dim.__name__
    return names


def _describe(model: ir.Model, opset: int) -> None:
    model.producer_name = "dinat-deploy"
    model.producer_version = __version__
    # The lowest file format that has this opset: the most readers know it (10 for opset 21).
    model.ir_version = onnx.helper.OP_SET_ID_VERSION_MAP[("ai.onnx", opset)]
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hold back the exporter's notes about packages that it does not need here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
