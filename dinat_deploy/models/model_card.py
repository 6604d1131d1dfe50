"""The project's own model directory: ``config.json`` beside ``model.safetensors``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dinat_deploy.errors import CheckpointError, ConfigError
from dinat_deploy.models.config import ModelConfig, describe
from dinat_deploy.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import nn

MODEL_CARD = "config.json"
_FORMAT = "dinat-deploy"


class ModelCard(BaseModel):
    """What must be known beside the weights to build and feed a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["dinat-deploy"] = "dinat-deploy"
    config: ModelConfig
    preprocessing: Preprocessing | None = None
    labels: list[str] | None = None

    @staticmethod
    def is_card(data: Mapping[str, Any]) -> bool:
        return data.get("format") == _FORMAT

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str) -> ModelCard:
        """A card from plain data; raises CheckpointError naming the field that is wrong."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise CheckpointError(describe(error, f"{where} is not valid")) from None


def read_card(path: str | Path) -> ModelCard:
    """The model card, or the bare configuration, in a JSON file.

    Raises:
        ConfigError: the file is not readable, or is no valid configuration.
        CheckpointError: it is no valid model card.
    """
    try:
        data: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not readable JSON: {error}.", "Check the path.") from None
    if isinstance(data, dict) and ModelCard.is_card(data):
        return ModelCard.parse(data, str(path))
    return ModelCard(config=ModelConfig.parse(data))


def save_model(
    directory: str | Path,
    model: nn.Module,
    config: ModelConfig,
    preprocessing: Preprocessing | None = None,
    labels: list[str] | None = None,
) -> Path:
    """Save a trained model as a directory that ``--checkpoint`` reads.

    Returns:
        The directory.
    """
    from safetensors.torch import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, directory / "model.safetensors")
    card = ModelCard(config=config, preprocessing=preprocessing, labels=labels)
    text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (directory / MODEL_CARD).write_text(text + "\n", encoding="utf-8")
    return directory
