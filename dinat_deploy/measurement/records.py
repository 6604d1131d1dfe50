"""What a measurement is told and what it finds; ``bench --json`` writes exactly this."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BenchOptions(_Record):
    """How to measure; names and defaults are those of trtexec 11.

    Attributes:
        warm_up: milliseconds of runs before the measurement.
        duration: least seconds of measured runs, of every artefact.
        iterations: least number of measured runs, of every artefact.
        streams, cuda_graph, transfers, spin_wait: as of
            :class:`dinat_deploy.session.base.RunOptions`.
        percentiles: which to report beside the median, each in 0..100.
        idle_time: milliseconds of sleep between the blocks, to let the device cool.
        layers: profile the layers too, in runs of their own.
        block_ms: length of the blocks in which several artefacts take turns; shorter if the
            duration would not give enough of them to compare.
        one_alive: load an artefact for each of its blocks and free it after, so that only one is
            in memory at a time.
        seed: of the inputs, and of the order in which artefacts take turns.
        power: measure the power too, in runs of their own: ``on`` is an error where nothing tells
            it, ``auto`` goes on without. True and False stand for ``on`` and ``off``.
    """

    warm_up: float = Field(default=200.0, ge=0)
    duration: float = Field(default=3.0, ge=0)
    iterations: int = Field(default=10, ge=1)
    streams: int = Field(default=1, ge=1)
    cuda_graph: bool = True
    transfers: bool = False
    spin_wait: bool = True
    percentiles: list[Annotated[float, Field(ge=0, le=100)]] = Field(
        default_factory=lambda: [90.0, 95.0, 99.0]
    )
    idle_time: float = Field(default=0.0, ge=0)
    layers: bool = False
    block_ms: float = Field(default=250.0, gt=0)
    one_alive: bool = False
    seed: int = 0
    power: Literal["off", "auto", "on"] = "off"

    @field_validator("power", mode="before")
    @classmethod
    def _power_by_word(cls, value: object) -> object:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class Statistics(_Record):
    """Figures of one quantity over all measured inferences, in milliseconds.

    Attributes:
        percentiles: percentile (as text, like ``99``) -> value; linear interpolation between order
            statistics.
        coefficient_of_variation: standard deviation over mean.
    """

    count: int
    min: float
    max: float
    mean: float
    median: float
    percentiles: dict[str, float]
    coefficient_of_variation: float


class Ratio(_Record):
    """Time that an artefact takes for an image over the time that the first one takes.

    Attributes:
        value: estimate from pairs of blocks that ran in the same round; above 1 is slower.
        low, high: its confidence interval; None with too few rounds for one.
        confidence: of the interval, such as 0.95.
        rounds: how many pairs of blocks there are.
    """

    value: float
    low: float | None
    high: float | None
    confidence: float
    rounds: int


class LayerRecord(_Record):
    """Time of one layer (see :class:`dinat_deploy.session.base.LayerTime`)."""

    name: str
    kind: str
    milliseconds: float
    share: float
    attention: bool


class Work(_Record):
    """What one run of the model must do.

    Attributes:
        macs: multiply-accumulates of the whole batch.
        attention_macs: those of the two attention products.
        weight_bytes: of all weights, read once.
        io_bytes: of inputs and outputs.
        counted_from: ``config`` (of the bundle) or ``onnx`` (its operators).
    """

    macs: int
    attention_macs: int
    weight_bytes: int
    io_bytes: int
    counted_from: Literal["config", "onnx"]


class Floor(_Record):
    """The least time that the work takes on a device, in milliseconds.

    Attributes:
        compute: work over the device's peak rate in the model's precision; ``memory``: bytes over
            its bandwidth. ``total`` is the larger one.
        device: the device, and ``source`` where its figures come from (specification, or measured
            on this machine).
        peak_tflops, bandwidth_gbs: those figures.
    """

    compute: float
    memory: float
    total: float
    device: str
    source: Literal["specification", "measured"]
    peak_tflops: float
    bandwidth_gbs: float


class PowerUse(_Record):
    """Power while one artefact ran, in runs of its own (:mod:`dinat_deploy.measurement.power`).

    Attributes:
        seconds, runs, samples: length of the window, runs and readings in it.
        watts: mean power of the whole; None where the rails have no total.
        rails: rail -> mean power in W.
        joules: energy of one run (all images of its batch): the integral of the power over the
            window, over the number of runs.
        joules_above_idle: the same after the power at rest is taken away, which makes what the
            run itself costs.
    """

    seconds: float
    runs: int
    samples: int
    watts: float | None
    rails: dict[str, float]
    joules: float | None
    joules_above_idle: float | None


class IdlePower(_Record):
    """Mean power in W while the artefacts were loaded and nothing ran."""

    seconds: float
    samples: int
    watts: float | None
    rails: dict[str, float]


class Conditions(_Record):
    """Temperatures in degrees Celsius and clocks in MHz at one moment, by name."""

    temperatures: dict[str, float]
    clocks: dict[str, float]


class PowerReport(_Record):
    """How the power was measured, and how the device was doing.

    Attributes:
        source: what told the power.
        method: ``samples`` of power, or a ``counter`` of energy.
        total: what the whole is, or why there is no total (``has_total``).
        interval_ms: between two readings, at least.
        sampling_share: of the time that readings took.
        mode: number and name of nvpmodel's mode on a Jetson.
        before, after: all measurements.
        throttled: what held the clocks down meanwhile.
        notes: rails that could not be read, artefacts whose power is not known.
    """

    source: str
    method: Literal["samples", "counter"]
    total: str
    has_total: bool
    interval_ms: float
    sampling_share: float
    idle: IdlePower | None
    mode: str | None
    before: Conditions
    after: Conditions
    throttled: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class ArtefactResult(_Record):
    """What was measured of one artefact.

    Attributes:
        name: as it was named on the command line.
        runtime: what ran it; ``device`` where.
        kind: whether it ran on a CPU or a GPU: enqueue and copies are None on the former.
        precision: types of its weights, if known.
        batch: images of one run.
        shapes: input name -> shape.
        latency, compute, host_to_device, device_to_host, enqueue: of one run.
        samples: every measured latency in milliseconds, in order.
        blocks: how many of them each block has, in order.
        ratio: time of an image over that of the first artefact; None of the first itself.
        throughput: images a second, from wall time.
        seconds: wall time of the measured blocks.
        memory: bytes by what they are for; None where it cannot be told.
        layers: by time, longest first; empty unless asked for.
        attention_share: of the layers' time; None without layers.
        work, floor: None where the model or the device is not known.
        power: None where it was not measured.
        warnings: such as unstable latencies, or that launching bounds the throughput.
        notes: what did not work as asked and was done without.
    """

    name: str
    runtime: str
    device: str
    kind: Literal["cpu", "gpu"]
    precision: str | None
    batch: int
    shapes: dict[str, list[int]]
    latency: Statistics
    compute: Statistics
    host_to_device: Statistics | None
    device_to_host: Statistics | None
    enqueue: Statistics | None
    samples: list[float]
    blocks: list[int]
    ratio: Ratio | None = None
    throughput: float
    seconds: float
    memory: dict[str, int | None]
    layers: list[LayerRecord] = Field(default_factory=list)
    attention_share: float | None = None
    work: Work | None = None
    floor: Floor | None = None
    power: PowerUse | None = None
    warnings: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class BenchReport(_Record):
    """One measurement of one or several artefacts, the first of which is the baseline.

    Attributes:
        started: date and time in UTC (ISO 8601).
        environment: what the machine is: processor, GPU, clocks, versions.
        command: the command line that repeats it.
        warnings: about the machine, such as other load or a governor that changes clocks.
        power: how the power was measured; None where it was not.
    """

    format_version: Literal[1] = 1
    created_by: str
    started: str
    command: str
    environment: dict[str, str]
    options: BenchOptions
    results: list[ArtefactResult]
    warnings: list[str] = Field(default_factory=list)
    power: PowerReport | None = None
