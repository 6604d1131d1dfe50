"""One protocol for everything that runs a model, and one for measuring it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
# uint8 for inputs that take pixels.
Feeds = Mapping[str, FloatArray | npt.NDArray[np.uint8]]


class Session(Protocol):
    """A loaded model.

    Attributes:
        name: what runs it, with its version, for reports.
        device: where it runs, such as ``CPU`` or the name of the GPU.
        notes: what did not work as asked and was done without.
    """

    name: str
    device: str
    notes: list[str]

    def run(self, feeds: Feeds) -> dict[str, FloatArray]:
        """Run once.

        Args:
            feeds: input name -> array; converted to the input's type where that loses nothing but
                precision.

        Returns:
            Output name -> array, the model's outputs and the tapped tensors.

        Raises:
            DinatDeployError: an input is missing, or an input that takes pixels (uint8) was given
                other numbers.
        """
        ...

    def prepare(self, feeds: Feeds, options: RunOptions) -> PreparedRun:
        """Make everything ready to run these inputs over and over.

        Raises:
            DinatDeployError: this session cannot do what the options ask for.
        """
        ...

    def close(self) -> None:
        """Free what the session holds; it cannot run afterwards."""
        ...


@dataclass(frozen=True)
class RunOptions:
    """How a prepared run is executed, in trtexec's terms.

    Attributes:
        streams: inferences in flight at once, each in a context and stream of its own (GPU only).
        cuda_graph: replay a recorded graph instead of launching kernel by kernel (GPU only).
        transfers: copy the inputs to the GPU and the outputs back in every inference; otherwise
            they stay there. Always so on the CPU, where it costs nothing.
        spin_wait: wait for the GPU by polling: more exact, but takes a CPU core.
        exclusive: whether nothing else will run between the inferences of this run. If not, worker
            threads must not spin while they wait for work, or they would slow the others.
    """

    streams: int = 1
    cuda_graph: bool = True
    transfers: bool = False
    spin_wait: bool = False
    exclusive: bool = True


@dataclass(frozen=True)
class Timing:
    """One inference, in milliseconds.

    Attributes:
        latency: from its begin to its end; ``host_to_device + compute + device_to_host`` on a GPU.
        compute: of the model alone.
        host_to_device, device_to_host: copies of inputs and outputs; 0 where there are none.
        enqueue: that the host needed to launch it; None where launching is running (CPU).
    """

    latency: float
    compute: float
    host_to_device: float = 0.0
    device_to_host: float = 0.0
    enqueue: float | None = None


@dataclass(frozen=True)
class Block:
    """Inferences that ran back to back.

    Attributes:
        timings: of every inference, in order of their begin.
        seconds: wall time from the begin of the first to the end of the last.
    """

    timings: Sequence[Timing]
    seconds: float


@dataclass(frozen=True)
class MemoryUse:
    """Bytes; None where it cannot be told.

    Attributes:
        weights: of the model's weights where it runs.
        activations: scratch memory of one context.
        inputs_outputs: buffers of one context.
        process: resident memory that the process gained by loading and preparing the model.
    """

    weights: int | None = None
    activations: int | None = None
    inputs_outputs: int | None = None
    process: int | None = None


@dataclass(frozen=True)
class LayerTime:
    """Time of one layer, averaged over the inferences of a profiled run.

    Attributes:
        kind: type of the layer, in its runtime's words.
        milliseconds: of one inference.
        attention: whether it is (part of) the neighborhood attention operator.
    """

    name: str
    kind: str
    milliseconds: float
    attention: bool


class PreparedRun(Protocol):
    """A model with its inputs in place, to be measured.

    Attributes:
        kind: ``cpu`` or ``gpu``: which figures of a timing mean something.
        notes: what did not work as asked (such as a CUDA graph) and was done without.
    """

    kind: Literal["cpu", "gpu"]
    notes: list[str]

    def block(self, seconds: float, least: int) -> Block:
        """Run back to back until both the time and the number of inferences are reached."""
        ...

    def profile(self, iterations: int) -> list[LayerTime]:
        """Times of the layers, in a run of its own: profiling slows the model down.

        Raises:
            DinatDeployError: this runtime tells no times of layers.
        """
        ...

    def memory(self) -> MemoryUse:
        """Memory that the model takes."""
        ...

    def close(self) -> None:
        """Free buffers and threads."""
        ...
