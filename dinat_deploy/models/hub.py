"""Published weights by name, through the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from dinat_deploy.errors import CheckpointError, MissingDependencyError
from dinat_deploy.files import sha256
from dinat_deploy.models.zoo import Variant

_FILES = ("model.safetensors", "pytorch_model.bin")


def download(variant: Variant) -> Path:
    """Fetch a variant's published weights and return the directory that holds them.

    Files already in the hub's cache are not fetched again. The weights are checked against the
    SHA-256 that the hub lists for them, where it lists one.

    Raises:
        CheckpointError: nothing is published under that name, there is no network, or the digest
            differs.
    """
    if variant.hub is None:
        raise CheckpointError(
            f"No weights of {variant.name} are on the Hugging Face hub.",
            f"Get {variant.checkpoint} from the original repository "
            "(SHI-Labs/Neighborhood-Attention-Transformer) and pass it with --checkpoint.",
        )
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors as hub_errors
    except ImportError:
        raise MissingDependencyError(
            "--pretrained needs the package huggingface_hub.", "pip install huggingface_hub"
        ) from None
    try:
        config = Path(hub.hf_hub_download(variant.hub, "config.json"))
        weights = _first_available(variant.hub)
    except (hub_errors.HfHubHTTPError, hub_errors.LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"The weights of {variant.name} ({variant.hub}) could not be downloaded: {reason}",
            "Check the network, or copy the weights here and pass them with --checkpoint.",
        ) from None
    expected = _listed_digest(variant.hub, weights.name)
    if expected is not None and (actual := sha256(weights)) != expected:
        raise CheckpointError(
            f"{weights} has SHA-256 {actual}, and {variant.hub} lists {expected}.",
            "Delete the file and download it again.",
        )
    return config.parent


def _first_available(repository: str) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors as hub_errors

    for name in _FILES:
        try:
            return Path(hub.hf_hub_download(repository, name))
        except hub_errors.LocalEntryNotFoundError:
            raise  # offline: the file may well exist
        except hub_errors.EntryNotFoundError:
            continue
    raise CheckpointError(
        f"{repository} has neither {' nor '.join(_FILES)}.", "Pass the weights with --checkpoint."
    )


def _listed_digest(repository: str, name: str) -> str | None:
    import huggingface_hub as hub
    from huggingface_hub import errors as hub_errors

    try:
        info = hub.HfApi().model_info(repository, files_metadata=True)
    except (hub_errors.HfHubHTTPError, OSError):
        return None
    for file in info.siblings or ():
        if file.rfilename == name and file.lfs is not None:
            return str(file.lfs.sha256)
    return None
