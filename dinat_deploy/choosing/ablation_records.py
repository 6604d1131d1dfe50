"""What an ablation keeps of its trainings, in a file that a later run goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dinat_deploy.choosing.ablation_task import ORDERS, architecture, is_possible
from dinat_deploy.errors import ConfigError, OutputError
from dinat_deploy.files import write_whole
from dinat_deploy.models.config import ModelConfig, describe


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Recipe(_Record):
    """What all trainings of a file have in common: figures of others are not comparable.

    Attributes:
        epochs: passes through the scans that are learned from.
        learned, judged: how many scans are learned from, and how many are judged.
        torch: version of PyTorch.
    """

    epochs: int = Field(ge=1)
    learned: int = Field(ge=1)
    judged: int = Field(ge=1)
    torch: str


class Training(_Record):
    """One training.

    Attributes:
        order: of the layers, such as ``NA-DiNA``.
        config: of the model.
        wrong: which of the judged scans were given a wrong class, ascending.
        seconds: that the training took.
    """

    order: str
    kernel_size: int
    seed: int
    config: ModelConfig
    wrong: list[Annotated[int, Field(ge=0)]]
    seconds: float = Field(ge=0)

    @property
    def key(self) -> tuple[str, int, int]:
        return self.order, self.kernel_size, self.seed


class AblationFile(_Record):
    """All finished trainings of a recipe."""

    kind: Literal["ablation"] = "ablation"
    format_version: Literal[1] = 1
    created_by: str
    recipe: Recipe
    trainings: list[Training] = Field(default_factory=list)

    def with_training(self, done: Training) -> AblationFile:
        """The same and one more."""
        return self.model_copy(update={"trainings": [*self.trainings, done]})

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            OutputError: the place cannot be written to.
        """
        write_whole(path, self.model_dump_json(indent=1) + "\n")


def read_ablation(path: Path, recipe: Recipe) -> AblationFile | None:
    """What an earlier run left; None if there is no such file.

    Args:
        recipe: that the file must have been made with.

    Raises:
        OutputError: the file is something else, which must not be overwritten.
        ConfigError: it was made with another recipe.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise OutputError(f"{path} cannot be read: {why}.", "Choose another --output.") from None
    try:
        found = AblationFile.model_validate(json.loads(text))
    except (ValueError, RecursionError) as error:
        why = (
            describe(error, "it is no ablation")
            if isinstance(error, ValidationError)
            else "it is no JSON."
        )
        raise OutputError(
            f"{path} exists and is not what ablate wrote: {why}",
            "Choose another --output, or remove it first.",
        ) from None
    for name, wanted in recipe.model_dump().items():
        have = getattr(found.recipe, name)
        if have != wanted:
            raise ConfigError(
                f"{path} has trainings with {name} {have}, and {wanted} is asked for now: their "
                "figures cannot be compared.",
                "Choose another --output, or remove it first.",
            )
    _check_trainings(path, found)
    return found


def _check_trainings(path: Path, found: AblationFile) -> None:
    """Figures must be those of the models that this version trains, and none counted twice."""
    keys = [each.key for each in found.trainings]
    reason = "the same training twice" if len(set(keys)) < len(keys) else None
    for each in found.trainings:
        if any(index >= found.recipe.judged for index in each.wrong):
            reason = "a wrong scan that was not judged"
        elif each.order not in ORDERS or not is_possible(each.kernel_size):
            reason = f"no model of today's, {each.order} with kernel size {each.kernel_size}"
        elif each.config != architecture(each.order, each.kernel_size):
            reason = f"another model under the name of {each.order}, kernel size {each.kernel_size}"
    if reason is not None:
        raise OutputError(
            f"{path} has {reason}: it was changed, or another version of ablate wrote it.",
            "Choose another --output, or remove it first.",
        )
