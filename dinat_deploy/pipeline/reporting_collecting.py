"""What bundles and their engines say of themselves, and what result files add to it."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from dinat_deploy.bundle import (
    CALIBRATION,
    MODEL,
    Bundle,
    Variant,
    VariantVerification,
    Verification,
    external_data_name,
)
from dinat_deploy.calibration.record import Calibration
from dinat_deploy.choosing.parts import parts
from dinat_deploy.engine.builder import PLAN
from dinat_deploy.engine.manifest import MANIFEST as ENGINE_MANIFEST
from dinat_deploy.engine.manifest import Engine, open_engine
from dinat_deploy.errors import BundleError, ConfigError, DinatDeployError, EngineError
from dinat_deploy.measurement.records import ArtefactResult, BenchReport
from dinat_deploy.measurement.statistics import paired_ratio
from dinat_deploy.measurement.tables import counted, described
from dinat_deploy.models.complexity import cost
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import UPerNet
from dinat_deploy.models.presets import PUBLISHED
from dinat_deploy.models.zoo import VARIANTS
from dinat_deploy.pipeline.evaluation_report import short_precision
from dinat_deploy.pipeline.locating import plans_in
from dinat_deploy.reporting.records import (
    ArtefactRecord,
    BlockWork,
    BundleRecord,
    Parity,
    PublishedScore,
    Run,
    Session,
    Speed,
)

_ENCODER = ("architecture", "embed_dim", "depths", "num_heads", "kernel_size", "mlp_ratio")


def bundle_record(bundle: Bundle, name: str) -> BundleRecord:
    """A bundle with its model, variants and engines, as their manifests say.

    Args:
        name: what to call it.

    Raises:
        ConfigError, EngineError: its calibration, or the manifest of an engine, is damaged.
    """
    manifest, config = bundle.manifest, bundle.manifest.config
    try:
        work = cost(config)
    except DinatDeployError:  # the decoder is none that is counted
        work = None
    weights = manifest.weights
    return BundleRecord(
        name=name,
        path=str(bundle.path),
        model=manifest.name,
        task=_task(config),
        scored=_scored(config),
        weights=weights.origin or weights.source,
        seeded=weights.source == "seeded",
        image_size=config.image_size,
        kernel_size=config.kernel_size,
        parameters=work.parameters if work else None,
        macs=work.macs if work else None,
        published=_published(config),
        calibration=_calibration(bundle),
        blocks=_blocks(config),
        artefacts=[
            _model(bundle, name),
            *(_variant(bundle, name, file, each) for file, each in bundle.variants.items()),
            *(_engine(bundle, name, open_engine(path)) for path in plans_in(bundle)),
        ],
    )


def _task(config: ModelConfig) -> str:
    if config.decoder is not None:
        return config.decoder.type
    return "features" if config.is_backbone else f"classification, {config.num_classes} classes"


def _scored(config: ModelConfig) -> bool:
    """Whether `evaluate` takes it: classifiers, and segmenters whose answers are pixels."""
    if config.decoder is not None:
        return isinstance(config.decoder, UPerNet)
    return not config.is_backbone


def _model(bundle: Bundle, name: str) -> ArtefactRecord:
    graph = bundle.manifest.graph
    fact = f"{graph.op_nodes} neighborhood attention nodes, opset {graph.opset}"
    return ArtefactRecord(
        name=f"{name} fp32",
        file=MODEL,
        path=str(bundle.path),
        kind="onnx",
        precision="fp32",
        bytes=_bytes(bundle.model_path),
        damage=_damage(bundle, MODEL),
        facts=[fact if graph.body else f"{fact}, without a body"],
        parity=_verification(bundle.manifest.verification),
    )


def _variant(bundle: Bundle, name: str, file: str, variant: Variant) -> ArtefactRecord:
    facts = []
    if variant.quantization is not None:
        found = variant.quantization
        facts.append(
            f"{found.macs:.1%} of the multiply-accumulates in {variant.precision}, the rest in "
            f"{found.rest}; ranges by {found.estimator}"
        )
        left_out = sum(len(island.nodes) for island in found.excluded)
        if left_out:
            facts.append(f"{counted(left_out, 'product')} left out of {variant.precision}")
    kept = sum(len(island.nodes) for island in variant.float32)
    if kept:
        facts.append(f"{counted(kept, 'node')} kept in float32")
    if variant.takes_pixels:
        facts.append("takes pixels")
    # The files of one precision differ in their names.
    usual = file == f"model.{variant.precision}.onnx"
    return ArtefactRecord(
        name=f"{name} {variant.precision}" if usual else f"{name} {file}",
        file=file,
        path=str(bundle.path / file),
        kind="onnx",
        precision=variant.precision,
        bytes=_bytes(bundle.path / file),
        damage=_damage(bundle, file),
        facts=facts,
        parity=_verification(variant.verification),
    )


def _engine(bundle: Bundle, name: str, engine: Engine) -> ArtefactRecord:
    manifest = engine.manifest
    plugin, body = manifest.layers.plugin, manifest.layers.body
    how = (
        f"{counted(len(plugin), 'plugin layer')}" if plugin else f"{len(body)} nodes by their body"
    )
    where = manifest.gpu.name if manifest.gpu else f"sm {', '.join(manifest.architectures)}"
    file = engine.path.resolve().relative_to(bundle.path.resolve())
    damage = None
    if engine.plan_path.is_file():
        try:
            engine.check_plan()
        except EngineError as error:
            damage = error.cause
    return ArtefactRecord(
        name=f"{name} {file.name}",
        file=file.as_posix(),
        path=str(bundle.path / file),
        kind="engine",
        precision=short_precision(manifest.precision),
        bytes=_bytes(engine.plan_path),
        damage=damage,
        facts=[
            f"{manifest.runtime.flavor} {manifest.runtime.version} for {where}",
            how,
            *(["holds code of its own"] if manifest.host_code else []),
        ],
    )


def unreadable_engines(bundle: Bundle) -> list[str]:
    """Of each plan in a bundle without a manifest that can be read, that it is left out."""
    known = {path.name for path in plans_in(bundle)}
    return [
        f"{plan.parent} is left out: it has a plan, and no {ENGINE_MANIFEST} that can be read."
        for plan in sorted(bundle.path.glob(f"engines/*/{PLAN}"))
        if plan.parent.name not in known
    ]


def _bytes(path: Path) -> int | None:
    files = (path, path.with_name(external_data_name(path.name)))
    return sum(file.stat().st_size for file in files if file.is_file()) or None


def _damage(bundle: Bundle, file: str) -> str | None:
    """How an ONNX file differs from what the manifest was written for; None if it does not, or is
    not here."""
    if not (bundle.path / file).is_file():
        return None
    try:
        bundle.check_model(file)
    except BundleError as error:
        return error.cause
    return None


def _verification(found: Verification | None) -> list[Parity]:
    if found is None:
        return []
    extra = found if isinstance(found, VariantVerification) else None
    return [
        Parity(
            origin="model.json",
            passed=found.passed,
            max_abs=found.max_abs_error,
            limit=found.atol + found.rtol * found.max_reference,
            cosine=extra.cosine if extra else None,
            argmax_agreement=extra.argmax_agreement if extra else None,
            cases=found.cases,
            runtime=found.runtime,
            simulated=extra.simulated if extra else False,
        )
    ]


def _calibration(bundle: Bundle) -> str | None:
    path = bundle.path / CALIBRATION
    if not path.is_file():
        return None
    try:
        found = Calibration.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(
            f"{path} is no record of a calibration.",
            f"Make it again with `dinat-deploy calibrate {shlex.quote(str(bundle.path))}`.",
        ) from None
    text = f"{counted(len(found.ranges), 'range')} from {counted(found.data.images, 'image')} of "
    text += found.data.source
    if found.model_sha256 != bundle.manifest.graph.sha256:
        text += ", of another model.onnx"
    return text


def _published(config: ModelConfig) -> PublishedScore | None:
    """What was published of this architecture, whatever the size of the image."""
    for variant in VARIANTS.values():
        size = variant.config.image_size
        if config.decoder is None and config.replace(image_size=size) == variant.config:
            top1 = variant.published.top1
            if top1 is None:
                return None
            return PublishedScore(
                model=variant.name, measure="top-1 on ImageNet-1k", percent=top1, image_size=size
            )
    if not isinstance(config.decoder, UPerNet) or config.num_classes != 150:
        return None
    for entry in PUBLISHED:
        own = VARIANTS[entry.variant].config
        alike = all(getattr(own, name) == getattr(config, name) for name in _ENCODER)
        if entry.decoder == "upernet" and alike:
            dilated = entry.variant.startswith("dinat")
            if dilated == any(max(level) > 1 for level in config.dilations):
                return PublishedScore(
                    model=f"UPerNet on {entry.variant}",
                    measure="mIoU on ADE20K",
                    percent=entry.results["mIoU"],
                    image_size=entry.image_size,
                )
    return None


def _blocks(config: ModelConfig) -> list[BlockWork]:
    """The encoder's blocks in order; none where the image is too small for the model."""
    encoder = config if config.decoder is None else config.backbone
    try:
        found = parts(encoder)
    except DinatDeployError:
        return []
    names = iter(_names(encoder))
    blocks: list[BlockWork] = []
    name = "patch_embed"
    for part in found:
        if part.name == "norm 1":
            name = next(names)
        elif part.name.startswith("downsampler"):
            name = f"levels.{int(part.stage.split()[1]) - 1}.downsample"
        elif part.stage == "head":
            name = "head"
        if not blocks or blocks[-1].name != name:
            blocks.append(BlockWork(name=name, macs=0, attention_macs=0))
        attention = part.macs if part.kind == "attention" else 0
        last = blocks[-1]
        blocks[-1] = last.model_copy(
            update={
                "macs": last.macs + part.macs,
                "attention_macs": last.attention_macs + attention,
            }
        )
    return blocks


def _names(config: ModelConfig) -> Iterator[str]:
    for layer in config.layers():
        yield f"levels.{layer.level}.blocks.{layer.index}"


def session_of(report: BenchReport, origin: str) -> Session:
    """What belongs to all runs of a measurement."""
    return Session(
        origin=origin,
        started=report.started,
        command=report.command,
        protocol=described(report.options),
        environment=report.environment,
        warnings=report.warnings,
        power=report.power,
    )


def add_runs(
    placed: Sequence[tuple[ArtefactRecord, str, ArtefactResult]],
    session: int,
    streams: int,
    taken: set[str],
) -> None:
    """Give artefacts what was measured of them in one session, with speeds.

    Args:
        placed: of one bundle: artefact, runtime that was named (empty for the usual one), result.
        session: its position in the report.
        taken: names of runs in the report; gets the new ones.
    """
    base = next((r for a, runtime, r in placed if a.file == MODEL and not runtime), None)
    first = ""
    for artefact, runtime, result in sorted(placed, key=lambda each: each[2] is not base):
        name = f"{artefact.name} in {result.runtime}" if runtime else artefact.name
        number, plain = 2, name
        while name in taken:
            name, number = f"{plain} ({number})", number + 1
        taken.add(name)
        speed = None
        if result is base:
            first = name
        elif base is not None:
            speed = _speed(first, result, base)
        artefact.runs.append(
            Run(
                name=name,
                session=session,
                streams=streams,
                usual=not runtime,
                result=result,
                speed=speed,
            )
        )


def _speed(than: str, result: ArtefactResult, base: ArtefactResult) -> Speed | None:
    """Of two runs that took turns; None if they did not have the same rounds."""
    own, other = _rounds(result), _rounds(base)
    if len(own) != len(other) or not own or min(*own, *other) <= 0:
        return None
    ratio = paired_ratio(own, other)
    # Ratios are of times, and slower is more.
    low = None if ratio.high is None else 1 / ratio.high
    high = None if ratio.low is None else 1 / ratio.low
    return Speed(than=than, value=1 / ratio.value, low=low, high=high)


def _rounds(result: ArtefactResult) -> list[float]:
    """Median time of an image in every round, in milliseconds."""
    medians, begin = [], 0
    for runs in result.blocks:
        block = result.samples[begin : begin + runs]
        begin += runs
        if block:
            medians.append(statistics.median(block) / result.batch)
    return medians


def measured_before(report: BenchReport, path: Path) -> bool:
    """Whether a measurement is older than the file that it is of."""
    try:
        started = datetime.fromisoformat(report.started)
        written = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
        return started < written.replace(microsecond=0)
    except (ValueError, TypeError, OSError):
        return False
