"""What was found of bundles, as plain data; ``report --json`` prints exactly this."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dinat_deploy.measurement.records import ArtefactResult, PowerReport


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Parity(_Record):
    """Outputs compared with PyTorch's: the worst of all inputs and outputs.

    Attributes:
        origin: what says so, such as ``model.json`` or the name of a file.
        max_abs: largest absolute error; ``limit`` is what it may be. None if not known or not
            finite.
        cosine: of the angle between both outputs.
        argmax_agreement: share of the images (pixels) with the same best class (0 to 1).
        cases: how many inputs there were.
        simulated: whether nothing but a simulation in float32 ran.
    """

    origin: str
    passed: bool
    max_abs: float | None
    limit: float | None
    cosine: float | None = None
    argmax_agreement: float | None = None
    cases: int
    runtime: str
    simulated: bool = False


class LayerParity(_Record):
    """Errors of one layer's output, as of :class:`dinat_deploy.parity.Errors`; None is not
    finite."""

    name: str
    max_abs: float | None
    relative: float | None
    cosine: float | None
    sqnr_db: float | None
    limit: float | None
    passed: bool


class LayerComparison(_Record):
    """All layers of an artefact against PyTorch's, in the order in which they run.

    Attributes:
        case: the input, in the user's words.
    """

    origin: str
    runtime: str
    case: str
    layers: list[LayerParity]

    @property
    def first_difference(self) -> str | None:
        """The first layer outside its limit."""
        return next((layer.name for layer in self.layers if not layer.passed), None)


class Lost(_Record):
    """Of the metric against the reference, as a share (0 to 1); negative is a gain.

    Attributes:
        low, high: the 95 % interval.
    """

    value: float
    low: float
    high: float


class Accuracy(_Record):
    """Scores of an artefact on data; shares are 0 to 1.

    Attributes:
        data: as the user named it, and ``images`` of it.
        metric: by which it is judged: ``top1``, ``miou`` or ``agreement``.
        reference: name of the artefact that it was compared with; None of that one itself.
        max_drop: points (hundredths) that may be lost; ``passed`` whether no more are.
        verdict: as ``evaluate`` words it.
    """

    origin: str
    data: str
    images: int
    metric: str
    top1: float | None = None
    top5: float | None = None
    miou: float | None = None
    pixel_accuracy: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None
    lost: Lost | None = None
    reference: str | None
    max_drop: float | None = None
    passed: bool | None = None
    simulated: bool = False
    runtime: str
    device: str
    verdict: str = ""


class Speed(_Record):
    """How many times as fast a run is as that of the bundle's float32 model, measured in turn.

    Attributes:
        than: name of the other run.
        value: above 1 is faster; ``low`` and ``high`` are its 95 % interval, None with too few
            rounds for one.
    """

    than: str
    value: float
    low: float | None
    high: float | None


class Run(_Record):
    """A measured artefact.

    Attributes:
        name: unique in the report.
        session: position of the measurement in :attr:`ReportData.sessions`.
        streams: inferences in flight at once.
        usual: whether it ran in the runtime that such an artefact usually takes, and not in one
            that the user named, such as PyTorch.
    """

    name: str
    session: int
    streams: int
    usual: bool = True
    result: ArtefactResult
    speed: Speed | None = None


class Missing(_Record):
    """Something that is not in the report.

    Attributes:
        what: such as ``latency``.
        why: the reason, in a sentence.
        command: what makes it; None if nothing does here.
    """

    what: str
    why: str
    command: str | None = None


class ArtefactRecord(_Record):
    """A file of a bundle that can be run.

    Attributes:
        name: unique in the report; ``file`` is its path within the bundle, ``path`` the one that
            commands take.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8`` or ``fp8``: the coarsest type in it.
        bytes: of its files on disk; None if they are not here.
        damage: how its files differ from what the manifest was written for; None if they do not.
        facts: how it was made, in sentences.
        parity: every comparison of its outputs that is known, the latest last.
    """

    name: str
    file: str
    path: str
    kind: Literal["onnx", "engine"]
    precision: str
    bytes: int | None
    damage: str | None = None
    facts: list[str] = Field(default_factory=list)
    parity: list[Parity] = Field(default_factory=list)
    layers: LayerComparison | None = None
    accuracy: list[Accuracy] = Field(default_factory=list)
    runs: list[Run] = Field(default_factory=list)
    missing: list[Missing] = Field(default_factory=list)


class PublishedScore(_Record):
    """What was published of trained weights of this architecture.

    Attributes:
        model: the variant.
        measure: such as ``top-1 on ImageNet-1k``.
        percent: the score.
        image_size: (height, width) in pixels that it was published for.
    """

    model: str
    measure: str
    percent: float
    image_size: tuple[int, int]


class BlockWork(_Record):
    """Multiply-accumulates of a block of the model for one image, calculated.

    Attributes:
        name: path of the block in the model, such as ``levels.0.blocks.1``.
        attention_macs: those of the two attention products.
    """

    name: str
    macs: int
    attention_macs: int


class UnitNoise(_Record):
    """What lower precision of one unit alone does to the outputs.

    Attributes:
        share: of the model's multiply-accumulates (0 to 1).
        sqnr_db: signal to error ratio at the outputs in dB; None if they are not finite.
        drop: points of the metric that are lost; None without a metric.
        excluded: whether the search left it out.
    """

    name: str
    share: float
    sqnr_db: float | None
    drop: float | None
    excluded: bool


class Sensitivity(_Record):
    """Outcome of ``sensitivity``; ``verdict`` in its words, ``units`` the most harmful first."""

    origin: str
    precision: str
    by: str
    data: str
    verdict: str
    units: list[UnitNoise]


class BundleRecord(_Record):
    """A bundle and everything in it.

    Attributes:
        name: unique in the report.
        path: as the user named it.
        model: what the export called it.
        task: in words; ``scored`` whether `evaluate` knows a score for it.
        weights: where they came from; ``seeded`` whether they are random.
        image_size: (height, width) in pixels.
        parameters: of the model; ``macs`` are multiply-accumulates of one image. None where the
            decoder cannot be counted.
        calibration: what the ranges were recorded on, in a sentence.
        blocks: empty where they cannot be counted.
    """

    name: str
    path: str
    model: str
    task: str
    scored: bool = True
    weights: str
    seeded: bool
    image_size: tuple[int, int]
    kernel_size: int
    parameters: int | None
    macs: int | None
    published: PublishedScore | None = None
    calibration: str | None = None
    blocks: list[BlockWork] = Field(default_factory=list)
    sensitivity: list[Sensitivity] = Field(default_factory=list)
    artefacts: list[ArtefactRecord] = Field(default_factory=list)

    @property
    def float32(self) -> ArtefactRecord:
        """The exported model, with which its variants are compared."""
        return self.artefacts[0]


class Session(_Record):
    """One measurement, in which artefacts took turns.

    Attributes:
        origin: the file that it was read from, or that it was made for this report.
        protocol: how it was measured, in a sentence.
    """

    origin: str
    started: str
    command: str
    protocol: str
    environment: dict[str, str]
    warnings: list[str]
    power: PowerReport | None


class ReportData(_Record):
    """Everything that a report shows.

    Attributes:
        started: date and time in UTC (ISO 8601).
        environment: of the machine that made the report.
        notes: what the reader should know of how it was put together.
    """

    format_version: Literal[1] = 1
    created_by: str
    started: str
    environment: dict[str, str]
    bundles: list[BundleRecord]
    sessions: list[Session] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    @property
    def artefacts(self) -> list[ArtefactRecord]:
        """Of all bundles, in their order."""
        return [artefact for bundle in self.bundles for artefact in bundle.artefacts]

    @property
    def runs(self) -> list[Run]:
        """Of all artefacts, in their order."""
        return [run for artefact in self.artefacts for run in artefact.runs]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the single latencies, thousands of them, are left out."""
        data = self.model_dump(mode="json")
        for bundle in data["bundles"]:
            for artefact in bundle["artefacts"]:
                for run in artefact["runs"]:
                    del run["result"]["samples"], run["result"]["blocks"]
        return data
