"""Makes the models of a comparison ready to run: exported and opened, or built in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.choosing.comparison import ComparedModel, family_of
from dinat_deploy.choosing.published import published_results
from dinat_deploy.choosing.rivals import (
    INPUT,
    OUTPUT,
    RIVALS,
    build_rival,
    count_operations,
    export_rival,
)
from dinat_deploy.measurement.onnx_work import count_onnx
from dinat_deploy.measurement.results import Subject
from dinat_deploy.models.complexity import cost
from dinat_deploy.models.zoo import get_variant
from dinat_deploy.pipeline.artefact import ArtefactName, RuntimeName
from dinat_deploy.pipeline.artefacts import open_artefact
from dinat_deploy.pipeline.exporting import export
from dinat_deploy.pipeline.pixels import made_up_feeds
from dinat_deploy.pipeline.rebuild import Place
from dinat_deploy.pipeline.requests import ModelRequest
from dinat_deploy.pipeline.sources import resolve
from dinat_deploy.session.base import PreparedRun, RunOptions, Session
from dinat_deploy.session.torch_session import TorchSession


@dataclass(frozen=True)
class Ready:
    """A model that can be measured.

    Attributes:
        make: prepares a run with made-up images in place.
    """

    model: ComparedModel
    subject: Subject
    make: Callable[[], PreparedRun]


@dataclass(frozen=True)
class Setting:
    """How all models of a comparison run.

    Attributes:
        folder: for ONNX files.
        held: closes the sessions.
        seed: of images and weights.
    """

    runtime: RuntimeName
    image_size: tuple[int, int]
    batch: int
    threads: int
    seed: int
    run: RunOptions
    folder: Path
    held: ExitStack


def counted(name: str, image_size: tuple[int, int]) -> ComparedModel:
    """A model of which nothing runs: counted without weights.

    Raises:
        ConfigError: it does not take this size.
        MissingDependencyError: transformers is needed, and is not installed.
    """
    if name not in RIVALS:
        config = get_variant(name).config.replace(image_size=image_size)
        config.check_image_size(image_size)
        whole = cost(config)
        return _model(name, whole.parameters, whole.macs, "config")
    with torch.device("meta"):
        rival = build_rival(name, image_size=image_size)
        macs = count_operations(rival.module, image_size)
    return _model(name, rival.parameters, macs, "operations")


def ready(name: str, setting: Setting) -> Ready:
    """A model with random weights, open in the runtime.

    Raises:
        ConfigError, BundleError, ExportError, MissingDependencyError: it cannot be built, exported
            or opened there.
    """
    if setting.runtime.startswith("torch"):
        return _in_pytorch(name, setting)
    return _in_onnxruntime(name, setting)


def _model(
    name: str,
    parameters: int,
    macs: int,
    counted_from: Literal["onnx", "config", "operations"],
) -> ComparedModel:
    return ComparedModel(
        name, family_of(name), published_results()[name], parameters, macs, counted_from
    )


def _in_pytorch(name: str, setting: Setting) -> Ready:
    if name in RIVALS:
        module = build_rival(name, image_size=setting.image_size, seed=setting.seed).module
    else:
        request = ModelRequest(model=name, image_size=setting.image_size, seed=setting.seed)
        module = resolve(request).module.requires_grad_(False)
    place = Place.of(setting.runtime, setting.threads)
    place.settle()
    session = TorchSession(module, [INPUT], [OUTPUT], device=place.device, compiled=place.compiled)
    setting.held.callback(session.close)
    shape = [setting.batch, 3, *setting.image_size]
    inputs = [TensorSpec(name=INPUT, dtype="float", shape=[*shape])]
    return _ready(counted(name, setting.image_size), session, inputs, "float32", setting)


def _in_onnxruntime(name: str, setting: Setting) -> Ready:
    if name in RIVALS:
        rival = build_rival(name, image_size=setting.image_size, seed=setting.seed)
        target = path = setting.folder / f"{name}.onnx"
        export_rival(rival.module, path, setting.image_size, setting.batch)
        parameters = rival.parameters
    else:
        request = ModelRequest(model=name, image_size=setting.image_size, seed=setting.seed)
        target = setting.folder / name
        path = export(request, target, batch=setting.batch, verify=False).path / "model.onnx"
        parameters = counted(name, setting.image_size).parameters
    artefact = open_artefact(
        ArtefactName(name, setting.runtime, str(target)), threads=setting.threads
    )
    setting.held.callback(artefact.close)
    macs = count_onnx(path).macs // setting.batch
    model = _model(name, parameters, macs, "onnx")
    return _ready(model, artefact.session, artefact.inputs, artefact.precision, setting)


def _ready(
    model: ComparedModel,
    session: Session,
    inputs: list[TensorSpec],
    precision: str,
    setting: Setting,
) -> Ready:
    shapes = {spec.name: [int(size) for size in spec.shape] for spec in inputs}
    feeds = made_up_feeds(inputs, shapes, setting.seed)
    subject = Subject(session.name, session.device, precision, shapes, notes=list(session.notes))
    return Ready(model, subject, lambda: session.prepare(feeds, setting.run))
