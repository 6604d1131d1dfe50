"""What every builder is given and gives back.

A builder is one flavour of TensorRT on one machine. It runs in a worker process; the records here
travel there and back as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.engine.profiles import Profile
from dinat_deploy.progress import Progress

Flavor = Literal["tensorrt-rtx"]
PLAN = "model.plan"


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PluginRequest(Record):
    """A plugin library to load, and what it must bring.

    Attributes:
        operators: plugin names that the model's nodes need.
        nodes: names of the nodes that must become plugin layers.
        embed: store the library in the plan, so that the plan runs without it.
    """

    library: Path
    operators: list[str]
    nodes: list[str]
    namespace: str = "dinat"
    version: str = "1"
    embed: bool = False


class BuildTask(Record):
    """One build, complete: a worker needs nothing else.

    Attributes:
        model: the ONNX file; its external data lies beside it.
        plan: the file to write.
        profiles: shapes of the dynamic inputs; empty if all are static.
        architectures: compute capabilities to build for, like ``86``; empty means the GPU at hand.
        optimization_level: 0 (fast build) to 5; None for the builder's own choice.
        workspace_mib: bound of the scratch memory in MiB; None for the builder's own choice.
        verbose_log: file for everything the builder says.
    """

    model: Path
    plan: Path
    plugin: PluginRequest | None = None
    profiles: list[Profile] = Field(default_factory=list)
    architectures: list[str] = Field(default_factory=list)
    optimization_level: int | None = None
    workspace_mib: int | None = None
    verbose_log: Path | None = None


@dataclass(frozen=True)
class Obstacle:
    """Why something cannot be done, and what helps; both without a full stop."""

    cause: str
    cure: str


class PluginLayer(Record):
    """A node that became a plugin layer, and the type it computes in."""

    node: str
    dtype: str


class BuildOutcome(Record):
    """What a worker made and saw.

    Attributes:
        version: of the builder.
        layers: layers of the parsed network, before fusion, by type.
        plugin_layers: the ONNX nodes that became layers of a plugin.
        body_nodes: the attention nodes that were replaced by their body.
        parse_seconds, build_seconds: wall time.
        peak_memory: of the worker process, in bytes; None where the system does not tell.
        warnings: what the builder warned of, without repetition.
    """

    version: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    layers: dict[str, int]
    plugin_layers: list[PluginLayer]
    body_nodes: list[str]
    parse_seconds: float
    build_seconds: float
    peak_memory: int | None
    warnings: list[str]


class EngineBuilder(Protocol):
    """One flavour of TensorRT."""

    flavor: Flavor

    def version(self) -> str:
        """Version that is installed.

        Raises:
            MissingDependencyError: none is.
        """
        ...

    def architectures(self, asked: Sequence[str]) -> list[str]:
        """Normalise compute capabilities; the builder's default if none is asked for.

        Raises:
            EngineError: one is unknown to this builder.
        """
        ...

    def plugin_obstacle(self) -> Obstacle | None:
        """Why this version cannot take plugins; None if it can."""
        ...

    def build(self, task: BuildTask, progress: Progress) -> BuildOutcome:
        """Write the plan.

        Raises:
            EngineError: the model is refused, the build fails, or the builder crashes. The plan
                may then be missing or incomplete.
        """
        ...
