"""A package for Triton: the model repository, what its models load, and how it is started."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinat_deploy.engine.builder import PLAN
from dinat_deploy.engine.checks import check_plugin
from dinat_deploy.engine.manifest import MANIFEST
from dinat_deploy.files import sha256
from dinat_deploy.progress import Progress
from dinat_deploy.serving.network import Network
from dinat_deploy.serving.problems import PackageError
from dinat_deploy.serving.record import PackageRecord, packaged, write_record
from dinat_deploy.serving.triton_checks import check_config
from dinat_deploy.serving.triton_config import CONFIG, ModelConfig
from dinat_deploy.serving.triton_definitions import definitions_are_here, read
from dinat_deploy.serving.triton_network import LABELS, LIBRARIES, ONNX_FILE, network_config
from dinat_deploy.serving.triton_options import TritonOptions
from dinat_deploy.serving.triton_pipeline import ServedModel, pipeline, pipeline_obstacle
from dinat_deploy.serving.triton_readme import START, readme, start_script
from dinat_deploy.serving.triton_repository import MODELS, VERSION, check_models


@dataclass(frozen=True)
class TritonPackage:
    """What was written.

    Attributes:
        configs: of all models, in the order of their writing.
        notes: what the user should know.
    """

    record: PackageRecord
    configs: list[ModelConfig]
    notes: list[str]


def write_triton_package(
    place: Path, networks: Sequence[Network], options: TritonOptions, progress: Progress
) -> TritonPackage:
    """Fill an empty directory.

    Raises:
        PackageError, EngineError: Triton would refuse a model, or it is not what its manifest says.
    """
    served: list[tuple[Network, ServedModel]] = []
    notes: list[str] = []
    for network in networks:
        notes += network.notes
        if network.engine is not None:
            check_plugin(network.engine, network.library)
        served += [(network, model) for model in _models(network, options, notes)]
    configs = [model.config for _, model in served]
    _refuse_same_names(configs)
    for network, model in progress.track(served, "Writing the models"):
        _write(place, network, model)
    for network in networks:
        _copy_library(place, network)
    with progress.stage("Checking the repository"):
        _check(place, configs)
    (place / START).write_text(start_script(networks), encoding="utf-8")
    (place / START).chmod(0o755)
    (place / "README.md").write_text(readme(networks, configs), encoding="utf-8")
    with progress.stage("Recording what is in the package"):
        record = write_record(place, "triton", [packaged(network) for network in networks])
    return TritonPackage(record, configs, notes)


def _models(network: Network, options: TritonOptions, notes: list[str]) -> list[ServedModel]:
    config = network_config(network, options)
    found = [ServedModel(config, {})]
    if options.warm_up and not config.warm_up:
        notes.append(
            f"{network.name} is not warmed up: nothing says how large its dynamic inputs are."
        )
    if options.pipeline is False:
        return found
    obstacle = pipeline_obstacle(network, config, options)
    if obstacle is not None and options.pipeline is None:
        notes.append(f"{network.name} gets no pipeline that takes pictures: {obstacle}.")
        return found
    return [*found, *pipeline(network, config, options)]


def _refuse_same_names(configs: Sequence[ModelConfig]) -> None:
    names = [config.name for config in configs]
    for name in names:
        if names.count(name) > 1:
            raise PackageError(
                f"Two models of the repository would be called {name}.",
                "Package them one by one, each with its --name.",
            )


def _write(place: Path, network: Network, model: ServedModel) -> None:
    """The directory of a model: configuration, labels, and the files of its version."""
    folder = place / MODELS / model.config.name
    version = folder / VERSION
    version.mkdir(parents=True)
    (folder / CONFIG).write_text(model.config.to_text(), encoding="utf-8")
    for name, text in model.files.items():
        (version / name).write_text(text, encoding="utf-8")
    if model.files:
        return  # of the pipeline
    if network.onnx is not None:
        shutil.copyfile(network.onnx.path, version / ONNX_FILE)
        for name in network.onnx.external:
            (version / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(network.onnx.path.parent / name, version / name)
    if network.engine is not None:
        shutil.copyfile(network.engine.plan_path, version / PLAN)
        # Triton leaves it alone; the checks, and whoever looks for what the plan needs, read it.
        shutil.copyfile(network.engine.path / MANIFEST, version / MANIFEST)
    if any(output.label_file for output in model.config.outputs):
        # One class a line, whatever a name holds.
        lines = [" ".join(label.split()) for label in network.labels or []]
        (folder / LABELS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _copy_library(place: Path, network: Network) -> None:
    if network.library is None or network.library_name is None:
        return
    target = place / LIBRARIES / network.library_name
    if target.exists() and sha256(target) != sha256(network.library):
        raise PackageError(
            f"Two models need different libraries called {target.name}.",
            "Build both with one library, or package them one by one.",
        )
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(network.library, target)


def _check(place: Path, configs: Sequence[ModelConfig]) -> None:
    """Everything that ``package --check`` does, on what has just been written."""
    repository = place / MODELS
    if definitions_are_here():
        for config in configs:
            text = (repository / config.name / CONFIG).read_text(encoding="utf-8")
            if read(text) != config:
                raise PackageError(
                    f"Triton reads another configuration of {config.name} than was meant.",
                    "This is a mistake of dinat-deploy: please report it.",
                )
    problems = [problem for config in configs for problem in check_config(config, config.name)]
    problems += check_models(configs, repository, place)
    if problems:
        raise problems[0].to_error()
