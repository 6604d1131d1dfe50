"""Which models the commands are for that compare answers with labels, or with each other."""

from __future__ import annotations

from dinat_deploy.errors import ConfigError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import UPerNet


def check_scored(config: ModelConfig | None, name: object, command: str) -> None:
    """Raise :class:`ConfigError` for a model whose answers are sets of masks.

    Args:
        config: of the model; None where it is not known.
        name: what the user calls it.
        command: that cannot deal with it.
    """
    decoder = config.decoder if config is not None else None
    if decoder is None or isinstance(decoder, UPerNet):
        return
    raise ConfigError(
        f"`dinat-deploy {command}` is for classifiers and segmenters with UPerNet, and {name} has "
        f"a decoder of type {decoder.type}.",
        "`dinat-deploy infer` shows what it finds in pictures.",
    )
