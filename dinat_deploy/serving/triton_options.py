"""How a model is to be served by Triton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dinat_deploy.errors import ConfigError


@dataclass(frozen=True)
class TritonOptions:
    """What the user asks for; None is a choice of this package. Times are in microseconds.

    Attributes:
        max_batch: images of a batch; 0 forbids batches, None takes the profile's largest, or 8.
        dynamic_batching: let Triton put requests together.
        preferred: sizes that a batch is closed at; None takes the ones that an engine's profile is
            optimised for, and none for an ONNX file.
        queue_delay: that a request may wait for others.
        priority_levels: of requests; 0 for none.
        max_queue_size: beyond which requests are refused; 0 for no bound.
        timeout: in the queue, after which a request is refused; 0 for none.
        kind: what instances run on; None is the GPU for engines and the CPU for ONNX files.
        instances: of the model, for each GPU or for the CPU; ``preprocess_instances`` of the
            decoding of pictures.
        gpus: numbers of the GPUs; empty for all.
        threads: of the CPU for one run of ONNX Runtime; None leaves the choice to it.
        profile: number of the engine's optimisation profile.
        warm_up: run the model before it counts as ready.
        pipeline: add an ensemble that takes pictures; None adds it where that is possible.
        top: classes that the ensemble of a classifier returns.
    """

    max_batch: int | None = None
    dynamic_batching: bool = True
    preferred: tuple[int, ...] | None = None
    queue_delay: int = 0
    priority_levels: int = 0
    max_queue_size: int = 0
    timeout: int = 0
    kind: Literal["cpu", "gpu", "auto"] | None = None
    instances: int = 1
    preprocess_instances: int = 1
    gpus: tuple[int, ...] = ()
    threads: int | None = None
    profile: int = 0
    warm_up: bool = True
    pipeline: bool | None = None
    top: int = 5

    def __post_init__(self) -> None:
        """Raise ConfigError if options contradict each other."""
        if not self.dynamic_batching and self.about_the_queue:
            raise ConfigError(
                "--no-dynamic-batching contradicts --preferred-batch, --queue-delay, --priorities, "
                "--max-queue and --queue-timeout, which are about the queue of requests that are "
                "batched.",
                "Leave one of them out.",
            )
        if self.gpus and self.kind == "cpu":
            raise ConfigError("--gpus contradicts --kind cpu.", "Leave one of them out.")
        if any(number < 0 for number in self.gpus):
            raise ConfigError(
                f"There is no GPU {min(self.gpus)}.", "GPUs are counted from 0, as nvidia-smi does."
            )

    @property
    def about_the_queue(self) -> bool:
        """Whether anything is asked for that only models with dynamic batching have."""
        return bool(
            self.preferred or self.queue_delay or self.priority_levels
            or self.max_queue_size or self.timeout
        )  # fmt: skip
