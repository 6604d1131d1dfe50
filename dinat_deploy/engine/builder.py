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
from dinat_deploy.session.tensorrt_api import Flavor

PLAN = "model.plan"
# Of ``low_memory``. TensorRT's own bounds are all of the GPU's memory for scratch memory and, on a
# Jetson, three quarters of it for trying kernels, which leaves 8 GB no room for anything else.
LOW_MEMORY_WORKSPACE_MIB, LOW_MEMORY_TACTICS_MIB = 256, 3072


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


class BuilderOptions(Record):
    """What the user asks of the builder; None is its own choice.

    Attributes:
        optimization_level: 0 (fast build) to 5.
        workspace_mib: bound of the engine's scratch memory in MiB.
        hardware_compatibility: GPUs beside the one at hand that the plan is for: none, all from
            Ampere on, or all of the same compute capability (TensorRT >= 10.9).
        version_compatible: the plan runs in later versions of the same major version; it then
            holds a lean runtime, which is host code.
        refit: weights can be replaced later; ``strip_weights`` leaves them out of the plan, which
            must be refitted before it runs.
        low_memory: keep the builder small, where it shares its memory with everything else: no
            scratch memory of the engine beyond ``workspace_mib`` (256 unless given), no kernels
            tried that take over :data:`LOW_MEMORY_TACTICS_MIB`, no streams beside the main one.
        tf32: let float32 products be computed in TensorFloat-32 (10 bits of mantissa).
        dla_core: run on this DLA core of a Jetson, and ``gpu_fallback`` what it does not support
            on the GPU.
    """

    optimization_level: int | None = Field(default=None, ge=0, le=5)
    workspace_mib: int | None = Field(default=None, ge=1)
    hardware_compatibility: Literal["none", "ampere+", "same-capability"] = "none"
    version_compatible: bool = False
    refit: bool = False
    strip_weights: bool = False
    low_memory: bool = False
    tf32: bool = False
    dla_core: int | None = Field(default=None, ge=0)
    gpu_fallback: bool = True

    @property
    def scratch_mib(self) -> int | None:
        """Bound of the scratch memory, given or that of ``low_memory``; None for TensorRT's."""
        return self.workspace_mib or (LOW_MEMORY_WORKSPACE_MIB if self.low_memory else None)


class BuildTask(Record):
    """One build, complete: a worker needs nothing else.

    Attributes:
        model: the ONNX file; its external data lies beside it.
        plan: the file to write.
        profiles: shapes of the dynamic inputs; empty if all are static.
        architectures: compute capabilities to build for, like ``86``; empty means the GPU at hand.
        timing_cache: file of measured kernel times, read and added to; None for none.
        debug_tensors: tensors to mark, so that a debug listener sees them while the engine runs.
        extra_outputs: tensors to return beside the model's outputs.
        verbose_log: file for everything the builder says.
    """

    flavor: Flavor
    model: Path
    plan: Path
    plugin: PluginRequest | None = None
    profiles: list[Profile] = Field(default_factory=list)
    architectures: list[str] = Field(default_factory=list)
    options: BuilderOptions = BuilderOptions()
    timing_cache: Path | None = None
    debug_tensors: list[str] = Field(default_factory=list)
    extra_outputs: list[str] = Field(default_factory=list)
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


class EngineLayer(Record):
    """A layer of the finished engine, as its inspector describes it.

    Attributes:
        kind: TensorRT's name of its type; ``plugin`` for ours.
        nodes: the ONNX nodes that it computes, as far as TensorRT still knows.
        tactic: the kernel that was chosen, if it says so.
        device: ``gpu`` or ``dla``.
    """

    name: str
    kind: str
    nodes: list[str] = Field(default_factory=list)
    tactic: str | None = None
    device: Literal["gpu", "dla"] = "gpu"


class Gpu(Record):
    """The GPU that a plan was built on.

    Attributes:
        capability: compute capability like ``89``.
        driver: version of CUDA that its driver supports, like ``13.0``.
        memory: bytes; GPUs of one name come with different amounts.
    """

    name: str
    capability: str
    driver: str | None = None
    memory: int | None = None


class BuildOutcome(Record):
    """What a worker made and saw.

    Attributes:
        version: of the builder.
        gpu: what it was built on; None if ahead of time.
        engine_layers: layers of the finished engine, after fusion; None where the builder cannot
            load what it built (ahead of time, without a GPU).
        dla_unsupported: layers that the DLA does not support, and that the GPU runs instead.
        timing_cache_hits: whether the timing cache had entries before the build; None without one.
        layers: layers of the parsed network, before fusion, by type.
        plugin_layers: the ONNX nodes that became layers of a plugin.
        body_nodes: the attention nodes that were replaced by their body.
        parse_seconds, build_seconds: wall time.
        peak_memory: of the worker process, in bytes; None where the system does not tell.
        warnings: what the builder warned of, without repetition.
    """

    version: str
    gpu: Gpu | None = None
    engine_layers: list[EngineLayer] | None = None
    dla_unsupported: list[str] = Field(default_factory=list)
    timing_cache_hits: bool | None = None
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

    def check(self, task: BuildTask) -> None:
        """Raise :class:`EngineError` if a task asks for what this builder does not have.

        Everything that can be told without building: options that this flavour or version lacks,
        or that the GPU cannot have.
        """
        ...

    def build(self, task: BuildTask, progress: Progress) -> BuildOutcome:
        """Write the plan.

        Raises:
            EngineError: the model is refused, the build fails, or the builder crashes. The plan
                may then be missing or incomplete.
        """
        ...
