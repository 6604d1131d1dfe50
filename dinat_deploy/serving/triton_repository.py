"""A model repository of Triton: written from models, read back and checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from dinat_deploy.serving.problems import PackageError, Problem
from dinat_deploy.serving.triton_checks import check_config
from dinat_deploy.serving.triton_completion import completed
from dinat_deploy.serving.triton_config import CONFIG, ENSEMBLE, ModelConfig
from dinat_deploy.serving.triton_definitions import read
from dinat_deploy.serving.triton_ensembles import check_ensemble
from dinat_deploy.serving.triton_files import check_files

MODELS = "models"
VERSION = "1"


def repository_in(place: Path) -> tuple[Path, Path]:
    """The model repository in a directory, and where a server for it is started.

    Args:
        place: a package, or a repository itself.

    Raises:
        PackageError: it is neither.
    """
    inner = place / MODELS
    for repository, package in ((inner, place), (place, place.parent)):
        if repository.is_dir() and any(repository.glob(f"*/{CONFIG}")):
            return repository, package
    raise PackageError(
        f"{place} holds no model repository: no directory in it has a {CONFIG}.",
        "Name what `dinat-deploy package --format triton` wrote, or the folder that Triton gets "
        "as --model-repository.",
    )


def check_repository(repository: Path, package: Path) -> tuple[list[ModelConfig], list[Problem]]:
    """Read and check every model of a repository.

    Args:
        package: where the server is started; paths of libraries are relative to it.

    Returns:
        The configurations that could be read, and what is wrong.

    Raises:
        MissingDependencyError: Triton's definitions are missing.
    """
    configs: list[ModelConfig] = []
    problems: list[Problem] = []
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        file, versions = folder / CONFIG, _versions(folder)
        try:
            text = file.read_text(encoding="utf-8") if file.is_file() else ""
            config = completed(read(text), folder, versions[-1] if versions else None)
        except (PackageError, UnicodeError) as error:
            cause = error.cause if isinstance(error, PackageError) else f"{file} is no text."
            problems.append(Problem(folder.name, cause, "Package the model again."))
            continue
        if not file.is_file() and not config.backend:
            problems.append(
                Problem(folder.name, f"It has no {CONFIG}.", "Remove it, or write one.")
            )
            continue
        configs.append(config)
        problems += check_config(config, folder.name)
    return configs, [*problems, *check_models(configs, repository, package)]


def check_models(
    configs: Iterable[ModelConfig], repository: Path, package: Path
) -> Iterator[Problem]:
    """What is wrong with the files of models, and between models.

    Args:
        repository: the folder with the models.
        package: as of :func:`check_repository`.
    """
    known = {config.name: config for config in configs}
    for config in known.values():
        versions = _versions(repository / config.name)
        if not versions:
            yield Problem(
                config.name,
                "It has no version: no directory with a number above 0 for its name.",
                "Put its files into a directory 1.",
            )
        elif config.platform != ENSEMBLE:
            # Without a policy Triton serves the newest version alone.
            yield from check_files(config, versions[-1], package)
        if config.platform == ENSEMBLE or config.steps:
            yield from check_ensemble(config, known)


def _versions(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    numbered = [path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
    return sorted(
        (path for path in numbered if int(path.name) > 0), key=lambda path: int(path.name)
    )
