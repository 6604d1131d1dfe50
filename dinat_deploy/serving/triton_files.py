"""Whether a model's configuration and its files say the same, as its back end will ask."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.engine.builder import PLAN
from dinat_deploy.engine.checks import check_plugin
from dinat_deploy.engine.manifest import MANIFEST, Engine, is_engine, open_engine
from dinat_deploy.engine.onnx_file import read_onnx
from dinat_deploy.errors import EngineError
from dinat_deploy.serving.problems import Problem
from dinat_deploy.serving.triton_checks import compatible, shown
from dinat_deploy.serving.triton_config import DATA_TYPES, DYNAMIC, ModelConfig, Tensor
from dinat_deploy.serving.triton_network import LABELS, ONNX_FILE, triton_dims

_AGAIN = "Package the model again, or correct config.pbtxt."
# Element types that Triton's ONNX Runtime back end passes on.
_ONNXRUNTIME_TYPES = frozenset(DATA_TYPES.values()) - {"TYPE_BF16"}


def check_files(config: ModelConfig, version: Path, package: Path) -> Iterator[Problem]:
    """What is wrong with a model's files.

    Args:
        version: directory of the version that is checked.
        package: where the server is started: paths of libraries are relative to it.
    """
    where = config.name
    backend = config.backend
    usual = {"onnxruntime": ONNX_FILE, "tensorrt": PLAN, "python": "model.py"}
    if backend not in usual:
        return
    file = version / (config.model_file or usual[backend])
    if not file.is_file():
        yield Problem(where, f"There is no {file.name} in {version}.", "Package the model again.")
        return
    try:
        if backend == "onnxruntime":
            yield from _check_onnx(config, file, package)
        elif backend == "tensorrt":
            yield from _check_plan(config, version, package)
        else:
            yield from _check_python(config, file)
    except EngineError as error:
        yield Problem(where, error.cause, error.cure)
    yield from _check_labels(config, version.parent)


def _check_onnx(config: ModelConfig, file: Path, package: Path) -> Iterator[Problem]:
    where, model = config.name, read_onnx(file)
    yield from _compare(config, model.input_specs, model.output_specs, file)
    for tensor in (*config.inputs, *config.outputs):
        if tensor.data_type not in _ONNXRUNTIME_TYPES:
            yield Problem(
                where,
                f"{tensor.name} is {tensor.data_type}, which Triton's ONNX Runtime back end does "
                "not pass on.",
                "Convert the model with float32 inputs and outputs.",
            )
    for library in config.operator_libraries:
        if not (package / library).is_file():
            yield Problem(
                where,
                f"It loads the operator library {library}, and there is none in {package}.",
                "Copy it there, or package the model again.",
            )
    if model.without_body and not config.operator_libraries:
        yield Problem(
            where,
            f"{file} has no body for {', '.join(model.without_body)}, and config.pbtxt names no "
            "operator library.",
            "Build it with `dinat-deploy plugin build` and package again, or export with "
            "--body standard.",
        )


def _check_plan(config: ModelConfig, version: Path, package: Path) -> Iterator[Problem]:
    where = config.name
    if not is_engine(version):
        yield Problem(
            where,
            f"{version} has no {MANIFEST}, so nothing says what its plan takes and needs.",
            "Package the directory that `dinat-deploy build` wrote.",
        )
        return
    engine = open_engine(version)
    manifest = engine.manifest
    if manifest.runtime.flavor != "tensorrt":
        yield Problem(
            where,
            "Its plan was built by TensorRT-RTX, and Triton's back end runs plans of TensorRT.",
            "Build it with --backend tensorrt.",
        )
    if manifest.options.strip_weights:
        yield Problem(where, "Its plan has no weights.", "Build it without --strip-weights.")
    engine.check_plan()
    yield from _compare(config, manifest.inputs, manifest.outputs, version / PLAN)
    yield from _check_profiles(config, engine)
    if manifest.plugin is not None and not manifest.plugin.embedded:
        check_plugin(engine, package / "lib" / manifest.plugin.library)


def _check_profiles(config: ModelConfig, engine: Engine) -> Iterator[Problem]:
    where, profiles = config.name, engine.manifest.profiles
    numbers = [number for group in config.instances for number in group.profiles] or ["0"]
    for number in numbers:
        if not profiles:
            break
        if not number.isdecimal() or int(number) >= len(profiles):
            yield Problem(
                where,
                f"It runs with the optimisation profile {number}, and the engine has "
                f"{len(profiles)}, counted from 0.",
                _AGAIN,
            )
            continue
        most = min(ranges.max[0] for ranges in profiles[int(number)].values())
        if config.max_batch_size > most:
            yield Problem(
                where,
                f"max_batch_size is {config.max_batch_size}, and the profile {number} of the "
                f"engine goes up to {most}.",
                "Build it with a larger --profile, or lower max_batch_size.",
            )


def _check_python(config: ModelConfig, file: Path) -> Iterator[Problem]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeError, ValueError) as error:
        yield Problem(config.name, f"{file} is not Python: {error}.", "Package the model again.")
        return
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    if "TritonPythonModel" not in classes:
        yield Problem(
            config.name, f"{file} has no class TritonPythonModel.", "Package the model again."
        )


def _check_labels(config: ModelConfig, directory: Path) -> Iterator[Problem]:
    for tensor in config.outputs:
        if not tensor.label_file:
            continue
        file = directory / tensor.label_file
        if not file.is_file():
            yield Problem(
                config.name,
                f"The output {tensor.name} has its labels in {file.name}, which is not there.",
                "Package the model again.",
            )
            continue
        try:
            count = len(file.read_text(encoding="utf-8").splitlines())
        except UnicodeError:
            yield Problem(config.name, f"{file} is no text in UTF-8.", "Package the model again.")
            continue
        if tensor.dims and tensor.dims[-1] not in (DYNAMIC, count):
            yield Problem(
                config.name,
                f"The output {tensor.name} has {tensor.dims[-1]} classes, and {LABELS} names "
                f"{count}.",
                "Package the model again.",
            )


def _compare(
    config: ModelConfig, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], file: Path
) -> Iterator[Problem]:
    """Names, types and dimensions of a configuration with those of the model file."""
    where = config.name
    missing = {spec.name for spec in inputs} - {tensor.name for tensor in config.inputs}
    for name in sorted(missing):
        yield Problem(where, f"{file} has an input {name}, which config.pbtxt lacks.", _AGAIN)
    for side, own, tensors in (
        ("input", inputs, config.inputs),
        ("output", outputs, config.outputs),
    ):
        known = {spec.name: spec for spec in own}
        for tensor in tensors:
            spec = known.get(tensor.name)
            if spec is None:
                yield Problem(
                    where,
                    f"config.pbtxt has an {side} {tensor.name}, and {file} has {', '.join(known)}.",
                    _AGAIN,
                )
            else:
                yield from _compare_one(config, side, tensor, spec, file)


def _compare_one(
    config: ModelConfig, side: str, tensor: Tensor, spec: TensorSpec, file: Path
) -> Iterator[Problem]:
    where = config.name
    expected = DATA_TYPES.get(spec.dtype, spec.dtype)
    if tensor.data_type != expected:
        yield Problem(
            where,
            f"config.pbtxt says that the {side} {tensor.name} is {tensor.data_type}, and in {file} "
            f"it is {expected}.",
            _AGAIN,
        )
    batched = config.max_batch_size > 0
    if batched and (not spec.shape or isinstance(spec.shape[0], int)):
        yield Problem(
            where,
            f"max_batch_size is {config.max_batch_size}, and the batch of the {side} {tensor.name} "
            f"is fixed in {file}: {shown(triton_dims(spec.shape, False))}.",
            "Set max_batch_size to 0 and write the whole shape, or export with --dynamic batch.",
        )
        return
    own = triton_dims(spec.shape, batched)
    # An input may be narrower than the model allows; outputs are promised exactly.
    dims = tensor.model_dims
    fits = dims == own or (
        side == "input"
        and compatible(dims, own)
        and all(size == DYNAMIC or given == size for given, size in zip(dims, own, strict=True))
    )
    if not fits:
        batch = "a batch and " if batched else ""
        yield Problem(
            where,
            f"config.pbtxt says that the {side} {tensor.name} is {batch}{shown(dims)}, and "
            f"in {file} it is {batch}{shown(own)}.",
            _AGAIN,
        )
