"""What Triton adds to a configuration by itself: names, back ends, and tensors of the model file.

It does so unless it is started with ``--disable-auto-complete-config``; the rules are those of its
core (``AutoCompleteBackendFields`` in ``model_config_utils.cc``) and of its back ends.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.engine.builder import PLAN
from dinat_deploy.engine.manifest import open_engine
from dinat_deploy.engine.onnx_file import read_onnx
from dinat_deploy.errors import EngineError
from dinat_deploy.serving.triton_config import DATA_TYPES, ENSEMBLE, ModelConfig, Tensor
from dinat_deploy.serving.triton_network import ONNX_FILE, triton_dims

# Of a model about whose batches its configuration says nothing.
_DEFAULT_MAX_BATCH = 4
_BACKENDS = {"tensorrt": PLAN, "onnxruntime": ONNX_FILE}
_PLATFORMS = {"tensorrt_plan": "tensorrt", "onnxruntime_onnx": "onnxruntime"}


def completed(config: ModelConfig, folder: Path, version: Path | None) -> ModelConfig:
    """A configuration as Triton has it after reading it.

    Args:
        folder: of the model.
        version: the one that is served; None if there is none.

    Returns:
        Tensors are those of the model file if none are named and it can be read.
    """
    config = replace(config, name=config.name or folder.name, backend=_backend(config, version))
    if version is None or config.inputs or config.outputs or config.backend not in _BACKENDS:
        return config
    try:
        return _with_tensors(config, version)
    except EngineError:
        return config  # the check of the files says what is wrong with them


def _backend(config: ModelConfig, version: Path | None) -> str:
    if config.backend or config.platform == ENSEMBLE:
        return config.backend
    if config.platform:
        return _PLATFORMS.get(config.platform, "")
    for backend, file in _BACKENDS.items():
        there = version is not None and (version / file).is_file()
        if config.model_file == file or (not config.model_file and there):
            return backend
    return ""


def _with_tensors(config: ModelConfig, version: Path) -> ModelConfig:
    """Raises EngineError if the model file cannot be read."""
    if config.backend == "tensorrt":
        manifest = open_engine(version).manifest
        inputs, outputs = manifest.inputs, manifest.outputs
        bounds = [ranges.max[0] for profile in manifest.profiles[:1] for ranges in profile.values()]
        most = min(bounds, default=_DEFAULT_MAX_BATCH)
    else:
        model = read_onnx(version / (config.model_file or ONNX_FILE))
        inputs, outputs = model.input_specs, model.output_specs
        most = _DEFAULT_MAX_BATCH
    open_batch = all(
        spec.shape and not isinstance(spec.shape[0], int) for spec in (*inputs, *outputs)
    )
    chosen = config.max_batch_size or (most if open_batch else 0)
    return replace(
        config,
        max_batch_size=chosen,
        inputs=tuple(_tensor(spec, chosen > 0) for spec in inputs),
        outputs=tuple(_tensor(spec, chosen > 0) for spec in outputs),
    )


def _tensor(spec: TensorSpec, batched: bool) -> Tensor:
    data_type = DATA_TYPES.get(spec.dtype, "TYPE_INVALID")
    return Tensor(spec.name, data_type, triton_dims(spec.shape, batched))
