"""Records of what was measured: figures, ratios to the first artefact, doubts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dinat_deploy.measurement.doubts import doubts
from dinat_deploy.measurement.measuring import Measured
from dinat_deploy.measurement.records import (
    ArtefactResult,
    BenchOptions,
    Floor,
    LayerRecord,
    Statistics,
    Work,
)
from dinat_deploy.measurement.statistics import paired_ratio, summarize
from dinat_deploy.session.base import LayerTime, MemoryUse


@dataclass(frozen=True)
class Subject:
    """What is known of an artefact besides what was measured of it.

    Attributes:
        runtime, device, precision, shapes, work, floor: as of
            :class:`dinat_deploy.measurement.records.ArtefactResult`.
        notes: what did not work as asked when it was opened.
    """

    runtime: str
    device: str
    precision: str | None
    shapes: dict[str, list[int]]
    work: Work | None = None
    floor: Floor | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def batch(self) -> int:
        """Images of one run: the first dimension of the first input."""
        first = next(iter(self.shapes.values()), [])
        return first[0] if first else 1


def results(
    measured: Sequence[Measured], subjects: Sequence[Subject], options: BenchOptions
) -> list[ArtefactResult]:
    """Records of all artefacts, the first of which is the baseline of the others."""
    baseline, first = measured[0], subjects[0]
    reference = _per_image(baseline, first.batch, options)
    records = []
    for found, subject in zip(measured, subjects, strict=True):
        record = _record(found, subject, options, company=len(measured) > 1)
        if found is not baseline:
            ratio = paired_ratio(_per_image(found, subject.batch, options), reference)
            record = record.model_copy(update={"ratio": ratio})
            if subject.batch != first.batch:
                record.warnings.append(
                    f"It runs {subject.batch} images at a time and {baseline.name} {first.batch}; "
                    "the ratio is of the time of one image."
                )
        records.append(record)
    return records


def _per_image(found: Measured, batch: int, options: BenchOptions) -> list[float]:
    return [time / batch for time in found.times(options.streams)]


def _record(
    found: Measured, subject: Subject, options: BenchOptions, *, company: bool
) -> ArtefactResult:
    timings, gpu = found.timings, found.kind == "gpu"

    def figures(values: Sequence[float]) -> Statistics:
        return summarize(values, options.percentiles)

    latency = figures([timing.latency for timing in timings])
    compute = figures([timing.compute for timing in timings])
    enqueues = [timing.enqueue for timing in timings if timing.enqueue is not None]
    enqueue = figures(enqueues) if gpu and enqueues else None
    copies = gpu and options.transfers
    layers = _layers(found.layers)
    memory = found.memory or MemoryUse()
    return ArtefactResult(
        name=found.name,
        runtime=subject.runtime,
        device=subject.device,
        kind=found.kind,
        precision=subject.precision,
        batch=subject.batch,
        shapes=subject.shapes,
        latency=latency,
        compute=compute,
        host_to_device=figures([t.host_to_device for t in timings]) if copies else None,
        device_to_host=figures([t.device_to_host for t in timings]) if copies else None,
        enqueue=enqueue,
        samples=[timing.latency for timing in timings],
        blocks=[len(block.timings) for block in found.blocks],
        throughput=subject.batch * len(timings) / found.seconds,
        seconds=found.seconds,
        memory={
            "weights": memory.weights,
            "activations": memory.activations,
            "inputs_outputs": memory.inputs_outputs,
            "process": memory.process,
        },
        layers=layers,
        attention_share=sum(layer.share for layer in layers if layer.attention) if layers else None,
        work=subject.work,
        floor=subject.floor,
        warnings=doubts(
            found, options, latency=latency, compute=compute, enqueue=enqueue, company=company
        ),
        notes=list(dict.fromkeys([*subject.notes, *found.notes])),
    )


def _layers(times: Sequence[LayerTime]) -> list[LayerRecord]:
    total = sum(layer.milliseconds for layer in times)
    return [
        LayerRecord(
            name=layer.name,
            kind=layer.kind,
            milliseconds=layer.milliseconds,
            share=layer.milliseconds / total if total else 0.0,
            attention=layer.attention,
        )
        for layer in sorted(times, key=lambda layer: -layer.milliseconds)
    ]
