"""Write any PyTorch model with neighborhood attention as ONNX, checked in ONNX Runtime."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dinat_deploy.errors import ConfigError, ExportError
from dinat_deploy.exporter import DEFAULT_OPSET, to_onnx
from dinat_deploy.files import hidden_directory
from dinat_deploy.graph import functions, schema
from dinat_deploy.parity import Errors, Tolerance, compare_all, tolerance_for
from dinat_deploy.progress import Progress, Silent
from dinat_deploy.session.onnxruntime_session import import_onnxruntime
from dinat_deploy.session.onnxruntime_values import BFLOAT16, to_array, to_value

# Protobuf messages end at 2 GiB; larger models keep their weights in a file beside them.
_LARGEST_FILE = (1 << 31) - (1 << 20)

Dynamic = Mapping[str, Mapping[int, "str | torch.export.Dim"]]


@dataclass(frozen=True)
class ExportedModule:
    """What :func:`export_module` wrote.

    Attributes:
        path: the ONNX file.
        data: file with the weights of a model of more than 2 GiB, beside it; else None.
        bytes: size of both.
        opset: version of the standard operators.
        inputs, outputs: name -> shape, dynamic dimensions by name.
        packed: nodes that read a qkv projection's output, which is what is fastest.
        split: nodes with query, key and value of their own.
        operators: how many nodes of which type there are, of the graph without the body.
        errors: largest error of each output over all inputs; empty if nothing was checked.
    """

    path: Path
    data: Path | None
    bytes: int
    opset: int
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    packed: int
    split: int
    operators: dict[str, int]
    errors: dict[str, Errors]


def export_module(
    module: nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    path: str | Path,
    *,
    dynamic: Dynamic | None = None,
    opset: int = DEFAULT_OPSET,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    with_body: bool = True,
    verify: bool = True,
    more_inputs: Sequence[Sequence[Tensor]] = (),
    tolerance: Tolerance | None = None,
    progress: Progress | None = None,
) -> ExportedModule:
    """Export a module that was written for NATTEN (:func:`dinat_deploy.natten.substitute`).

    Attention over two axes, or one, without stride and causality becomes one node each, which our
    plugin runs in TensorRT and our library in ONNX Runtime; scaling, bias, softmax and sum are
    fused even where the model calls them one by one. The rest, and the node's body, are standard
    operators. The file is compared with the module in ONNX Runtime before it appears.

    Args:
        example_inputs: what ``forward`` is called with, tensors only. A dynamic axis must not have
            0 or 1 entries in them.
        path: the file to write; an older one is replaced.
        dynamic: input name -> axis -> name of the dimension, or a ``torch.export.Dim`` with its
            bounds. Equal names are the same dimension.
        opset: 17 to 21.
        input_names: by default the parameter names of ``forward``.
        output_names: by default ``output``, or ``output_0`` and so on; of tuples, lists and
            dictionaries in the order of their leaves.
        with_body: write the operator's body in standard operators, so that the file runs anywhere.
        verify: compare with the module. Without the body this takes our ONNX Runtime library.
        more_inputs: further inputs to compare at, say of other sizes along dynamic axes.
        tolerance: by default that of the module's coarsest type
            (:func:`dinat_deploy.parity.tolerance_for`); for float32 it is
            ``1e-4 + 1e-4 * largest output``.

    Raises:
        ExportError: the module cannot be exported, or the file differs from it.
        OperatorError: a window does not fit its map.
        ConfigError: names that do not match the inputs or outputs.
        OutputError: the place cannot be written to.
    """
    progress = progress or Silent()
    target = Path(path)
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    names = _input_names(module, len(inputs), input_names)
    axes = _dynamic_axes(names, inputs, dynamic or {})
    with _evaluating(module):
        with progress.stage("Running the PyTorch model"):
            cases = [_run(module, case) for case in (inputs, *more_inputs)]
        outputs = _output_names(len(cases[0]), output_names)
        graph = to_onnx(
            module,
            # PyTorch takes one tensor that is passed twice for one input.
            [tensor.clone() for tensor in inputs],
            input_names=names,
            output_names=outputs,
            dynamic=axes if any(axes) else (),
            opset=opset,
            with_body=with_body,
            keep_parameters=False,
            progress=progress,
        )
    errors: dict[str, Errors] = {}
    with hidden_directory(target) as partial:
        with progress.stage("Writing the ONNX file"):
            files = _save(graph.model, partial / target.name)
        if verify:
            with progress.stage("Comparing with PyTorch in ONNX Runtime"):
                feeds = [dict(zip(names, case, strict=True)) for case in (inputs, *more_inputs)]
                expected = [dict(zip(outputs, case, strict=True)) for case in cases]
                limit = tolerance or tolerance_for(_coarsest(module, inputs))
                errors = _compare(files[0], feeds, expected, limit, with_body)
        size = sum(file.stat().st_size for file in files)
        for file in reversed(files):  # the weights before the model that refers to them
            file.replace(target.with_name(file.name))
    return _report(graph.model, target, len(files) > 1, size, opset, errors)


def _input_names(module: nn.Module, count: int, asked: Sequence[str] | None) -> list[str]:
    if asked is not None:
        names = list(asked)
    else:
        parameters = inspect.signature(module.forward).parameters.values()
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [parameter.name for parameter in parameters if parameter.kind in kinds][:count]
        names += [f"input_{number}" for number in range(len(names), count)]
    if len(names) != count or len(set(names)) != count:
        raise ConfigError(
            f"There are {count} inputs and the input names {names}.", "Name each once."
        )
    return names


def _output_names(count: int, asked: Sequence[str] | None) -> list[str]:
    if asked is None:
        return ["output"] if count == 1 else [f"output_{number}" for number in range(count)]
    if len(asked) != count or len(set(asked)) != count:
        raise ConfigError(
            f"The module returns {count} tensors and the output names are {list(asked)}.",
            "Name each once.",
        )
    return list(asked)


def _dynamic_axes(
    names: Sequence[str], inputs: Sequence[Tensor], dynamic: Dynamic
) -> list[dict[int, torch.export.Dim]]:
    unknown = sorted(dynamic.keys() - set(names))
    if unknown:
        raise ConfigError(
            f"dynamic names the input {unknown[0]!r}; the inputs are {', '.join(names)}."
        )
    dims: dict[str, torch.export.Dim] = {}
    made = []
    for name, tensor in zip(names, inputs, strict=True):
        axes: dict[int, torch.export.Dim] = {}
        for axis, wanted in dynamic.get(name, {}).items():
            if not 0 <= axis < tensor.dim():
                raise ConfigError(f"Input {name} has {tensor.dim()} axes, no axis {axis}.")
            if tensor.shape[axis] < 2:
                raise ConfigError(
                    f"Axis {axis} of the example for {name} is {tensor.shape[axis]}: PyTorch takes "
                    "a dynamic axis of 0 or 1 for a constant.",
                    "Pass an example with at least 2 there.",
                )
            dim = torch.export.Dim(wanted, min=1) if isinstance(wanted, str) else wanted
            axes[axis] = dims.setdefault(dim.__name__, dim)
        made.append(axes)
    return made


@contextmanager
def _evaluating(module: nn.Module) -> Any:
    """In evaluation mode, every part back in its own afterwards."""
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in training.items():
            part.training = mode


def _run(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        leaves = pytree.tree_leaves(module(*inputs))
    strays = [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)]
    if strays:
        raise ExportError(f"forward() returns a {strays[0]} besides tensors.", "Return tensors.")
    return leaves


def _coarsest(module: nn.Module, inputs: Sequence[Tensor]) -> str:
    """The floating type of the fewest bits that the module computes in, as far as one can see."""
    found = {tensor.dtype for tensor in (*module.parameters(), *module.buffers(), *inputs)}
    for dtype in (torch.bfloat16, torch.float16):
        if dtype in found:
            return str(dtype).removeprefix("torch.")
    return "float32"


def _save(model: ir.Model, path: Path) -> list[Path]:
    size = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    data = path.with_name(f"{path.name}.data") if size > _LARGEST_FILE else None
    ir.save(model, path, external_data=None if data is None else data.name)
    return [path] if data is None else [path, data]


def _compare(
    path: Path,
    feeds: Sequence[Mapping[str, Tensor]],
    expected: Sequence[Mapping[str, Tensor]],
    tolerance: Tolerance,
    with_body: bool,
) -> dict[str, Errors]:
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    if not with_body:
        _use_library(options)
    worst: dict[str, Errors] = {}
    try:
        session = runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        found = [_run_session(runtime, session, case) for case in feeds]
    except Exception as error:
        said = str(error).splitlines()[0]
        raise ExportError(
            f"ONNX Runtime cannot run the exported model: {said}",
            "verify=False writes it all the same, unchecked.",
        ) from error
    for case, (wanted, got) in enumerate(zip(expected, found, strict=True)):
        reference = {name: _array(tensor) for name, tensor in wanted.items()}
        for name, errors in compare_all(reference, got, list(reference), tolerance).items():
            if not errors.passed:
                raise ExportError(
                    f"The ONNX file differs from PyTorch: output {name} of input {case} is off by "
                    f"{errors.max_abs:.3g}, and {errors.limit:.3g} is allowed.",
                    "A wider tolerance takes it; verify=False does not look.",
                )
            if name not in worst or errors.max_abs > worst[name].max_abs:
                worst[name] = errors
    return worst


def _use_library(options: Any) -> None:
    from dinat_deploy.native import find_library

    library = find_library("onnxruntime")
    if library is None:
        raise ConfigError(
            "A file without the operator's body is compared through our ONNX Runtime library, "
            "which is not built.",
            "Build it with `dinat-deploy plugin build`, or pass verify=False.",
        )
    options.register_custom_ops_library(str(library.absolute()))


def _run_session(runtime: Any, session: Any, feeds: Mapping[str, Tensor]) -> dict[str, Any]:
    values = {}
    for meta in session.get_inputs():  # what the model does not read is no input of the file
        tensor = feeds[meta.name].detach().cpu()
        if meta.type == BFLOAT16:
            values[meta.name] = to_value(runtime, tensor.float().numpy(), BFLOAT16, meta.name)
        else:
            array = np.ascontiguousarray(tensor.numpy())
            values[meta.name] = runtime.OrtValue.ortvalue_from_numpy(array)
    names = [meta.name for meta in session.get_outputs()]
    outputs = session.run_with_ort_values(names, values)
    return {name: to_array(value) for name, value in zip(names, outputs, strict=True)}


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().float().numpy()


def _report(
    model: ir.Model,
    path: Path,
    has_data: bool,
    size: int,
    opset: int,
    errors: dict[str, Errors],
) -> ExportedModule:
    counts: dict[str, int] = {}
    for node in model.graph:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    own = [node.op_type for node in functions.op_nodes(model)]
    return ExportedModule(
        path=path,
        data=path.with_name(f"{path.name}.data") if has_data else None,
        bytes=size,
        opset=opset,
        inputs={str(value.name): _shape(value) for value in model.graph.inputs},
        outputs={str(value.name): _shape(value) for value in model.graph.outputs},
        packed=own.count(schema.PACKED),
        split=own.count(schema.SPLIT),
        operators=dict(sorted(counts.items())),
        errors=errors,
    )


def _shape(value: ir.Value) -> list[int | str]:
    dims = [] if value.shape is None else list(value.shape)
    return [dim if isinstance(dim, int) else str(dim.value) for dim in dims]
