"""The ensemble around a model: pictures in, classes out, by models in Triton's Python back end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from dinat_deploy.models.limits import LARGEST_AREA
from dinat_deploy.serving.network import Network
from dinat_deploy.serving.problems import PackageError
from dinat_deploy.serving.triton_config import (
    DYNAMIC,
    ENSEMBLE,
    DynamicBatching,
    Instances,
    ModelConfig,
    Step,
    Tensor,
)
from dinat_deploy.serving.triton_options import TritonOptions

PICTURES = "images"
_PREPARED, _SCORES, _CLASSES, _LABELS = "prepared", "scores", "classes", "labels"
_NUMPY = {"TYPE_FP32": "float32", "TYPE_FP16": "float16", "TYPE_UINT8": "uint8"}


@dataclass(frozen=True)
class ServedModel:
    """A model of the repository, and the files in the directory of its version."""

    config: ModelConfig
    files: Mapping[str, str]


def pipeline_obstacle(network: Network, config: ModelConfig, options: TritonOptions) -> str | None:
    """Why a model gets no ensemble that takes pictures; None if it can have one."""
    if network.bundle is None:
        return "it belongs to no bundle, which would say how pictures become its input"
    prepared = network.preprocessing(options.profile)
    if prepared is None:
        return "it takes no pictures"
    if network.inputs[0].shape[1] != len(prepared.mean):
        return f"it takes {network.inputs[0].shape[1]} channels, not {len(prepared.mean)}"
    if len(prepared.mean) not in (1, 3):
        return f"it takes {len(prepared.mean)} channels, and pictures have 1 or 3"
    if config.inputs[0].data_type not in _NUMPY:
        return f"its input is {config.inputs[0].data_type}, which numpy does not have"
    return None


def pipeline(network: Network, config: ModelConfig, options: TritonOptions) -> list[ServedModel]:
    """The models that make an ensemble of the model ``config``, the ensemble last.

    Raises:
        PackageError: there can be none.
    """
    obstacle = pipeline_obstacle(network, config, options)
    if obstacle is not None:
        raise PackageError(
            f"{network.source} gets no pipeline: {obstacle}.",
            "Name its bundle with --bundle, or leave --pipeline out.",
        )
    # Without batches a request holds all images of the model's own one.
    images = (1,) if config.max_batch_size else (config.inputs[0].dims[0],)
    pictures = Tensor(PICTURES, "TYPE_STRING", images)
    before = _preprocess(network, config, options, pictures)
    readable = network.classifies and config.outputs[0].data_type in _NUMPY
    after = _postprocess(network, config, options, images) if readable else None
    steps = [
        Step(before.config.name, {PICTURES: PICTURES}, {config.inputs[0].name: _PREPARED}),
        Step(
            config.name,
            {config.inputs[0].name: _PREPARED},
            {output.name: output.name for output in config.outputs},
        ),
    ]
    outputs = config.outputs
    if after is not None:
        names = [output.name for output in after.config.outputs]
        logits = config.outputs[0].name
        steps.append(Step(after.config.name, {logits: logits}, {name: name for name in names}))
        outputs = after.config.outputs
    ensemble = ModelConfig(
        name=f"{config.name}_pipeline",
        platform=ENSEMBLE,
        max_batch_size=config.max_batch_size,
        inputs=(pictures,),
        outputs=tuple(Tensor(out.name, out.data_type, out.dims) for out in outputs),
        steps=tuple(steps),
    )
    # Triton wants a directory of the version; archives and git drop empty ones.
    marker = {"README": "An ensemble has no files of its own.\n"}
    return [before, *([after] if after else []), ServedModel(ensemble, marker)]


def _preprocess(
    network: Network, config: ModelConfig, options: TritonOptions, pictures: Tensor
) -> ServedModel:
    prepared = network.preprocessing(options.profile)
    assert prepared is not None
    own = config.inputs[0]
    batch = () if config.max_batch_size else (own.dims[0],)
    made = Tensor(own.name, own.data_type, (*batch, len(prepared.mean), *prepared.crop))
    settings = {
        "input": PICTURES,
        "output": own.name,
        "dtype": _NUMPY[own.data_type],
        # A long and thin picture, resized to cover the input, would take all of the memory.
        "largest_area": LARGEST_AREA,
        **prepared.model_dump(mode="json"),
    }
    served = ModelConfig(
        name=f"{config.name}_preprocess",
        backend="python",
        max_batch_size=config.max_batch_size,
        inputs=(pictures,),
        outputs=(made,),
        instances=(Instances("KIND_CPU", options.preprocess_instances),),
    )
    return ServedModel(
        served,
        {"model.py": _source("preprocess.py"), "preprocessing.json": _json(settings)},
    )


def _postprocess(
    network: Network, config: ModelConfig, options: TritonOptions, images: tuple[int, ...]
) -> ServedModel:
    logits, labels = config.outputs[0], network.labels
    classes = logits.dims[-1]
    count = options.top if classes == DYNAMIC else min(options.top, classes)
    dims = (count,) if config.max_batch_size else (*images, count)
    outputs = [Tensor(_SCORES, "TYPE_FP32", dims), Tensor(_CLASSES, "TYPE_INT32", dims)]
    if labels is not None:
        outputs.append(Tensor(_LABELS, "TYPE_STRING", dims))
    settings = {"input": logits.name, "top": count, "labels": labels}
    served = ModelConfig(
        name=f"{config.name}_postprocess",
        backend="python",
        max_batch_size=config.max_batch_size,
        inputs=(Tensor(logits.name, logits.data_type, logits.dims),),
        outputs=tuple(outputs),
        instances=(Instances("KIND_CPU"),),
        # A batch costs little more than one image here.
        batching=DynamicBatching() if config.max_batch_size and config.batching else None,
    )
    return ServedModel(
        served, {"model.py": _source("postprocess.py"), "labels.json": _json(settings)}
    )


def _source(name: str) -> str:
    place = resources.files("dinat_deploy.serving").joinpath("triton_models").joinpath(name)
    return place.read_text(encoding="utf-8")


def _json(data: object) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
