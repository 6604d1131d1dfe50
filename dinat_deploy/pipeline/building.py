"""``build``: a bundle or an ONNX file to an engine."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.engine import trust
from dinat_deploy.engine.builder import PLAN, BuilderOptions, BuildOutcome, PluginRequest
from dinat_deploy.engine.manifest import (
    MANIFEST,
    EngineManifest,
    LayerInfo,
    OnnxSource,
    PlanInfo,
    PluginInfo,
    Runtime,
    is_engine,
    onnx_source,
)
from dinat_deploy.engine.onnx_file import GraphTensor
from dinat_deploy.engine.plugin_choice import library_version
from dinat_deploy.engine.profiles import Profile
from dinat_deploy.engine.strip_body import strip_body
from dinat_deploy.errors import OutputError
from dinat_deploy.files import sha256, whole_directory
from dinat_deploy.pipeline.build_plan import BuildPlan, TapKind, builder_for, plan_build
from dinat_deploy.progress import Progress, Silent

__all__ = ["BuildPlan", "BuildReport", "BuilderOptions", "build", "plan_build"]

# Within the directory that becomes the engine: the same disk, and gone with it after a crash.
_STRIPPED = ".stripped"


@dataclass(frozen=True)
class BuildReport:
    """What ``build`` made.

    Attributes:
        path: directory of the engine.
        manifest: content of its ``engine.json``.
        seconds: wall time of the whole; ``parse_seconds`` and ``build_seconds`` of its main parts.
        peak_memory: of the builder's process, in bytes; None where the system does not tell.
        timing_cache: file of measured kernel times; ``timing_cache_hits`` whether the builder found
            any in it. None without one.
        notes: choices that were made.
        warnings: what TensorRT warned of.
    """

    path: Path
    manifest: EngineManifest
    seconds: float
    parse_seconds: float
    build_seconds: float
    peak_memory: int | None
    timing_cache: Path | None
    timing_cache_hits: bool | None
    notes: list[str]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "seconds": self.seconds,
            "parse_seconds": self.parse_seconds,
            "build_seconds": self.build_seconds,
            "peak_memory": self.peak_memory,
            "timing_cache": str(self.timing_cache) if self.timing_cache else None,
            "timing_cache_hits": self.timing_cache_hits,
            "notes": self.notes,
            "warnings": self.warnings,
            "manifest": self.manifest.model_dump(mode="json"),
        }


def build(
    model: str | Path,
    output: str | Path | None = None,
    *,
    backend: str | None = None,
    options: BuilderOptions | None = None,
    plugin: bool | None = None,
    plugin_library: str | Path | None = None,
    embed_plugin: bool = False,
    profiles: str | Sequence[str | Profile] = (),
    architectures: str | Sequence[str] = (),
    optimization_level: int | None = None,
    workspace_mib: int | None = None,
    timing_cache: str | Path | bool | None = None,
    taps: TapKind = "none",
    verbose_log: str | Path | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build an engine from a bundle or an ONNX file.

    Args:
        model: a bundle, or an ONNX file.
        output: directory of the engine; an older engine there is replaced. By default
            ``engines/NAME`` in the bundle, or ``STEM.engines/NAME`` beside the ONNX file.
        backend: ``tensorrt``, which builds for the GPU at hand, or ``tensorrt-rtx``, which builds
            ahead of time and needs none. By default the first if it is installed and there is a
            GPU, else the second.
        options: what the builder is asked for
            (:class:`dinat_deploy.engine.builder.BuilderOptions`).
        plugin: use the plugin for attention (True), the operator's body in standard operators
            (False), or the plugin if its library is found (None).
        plugin_library: the plugin library, instead of the one that is found; implies ``plugin``.
        embed_plugin: store the plugin library in the plan; implies ``plugin``.
        profiles: shapes of dynamic inputs, like ``image=1x3x224x224:4x3x224x224:8x3x224x224``,
            one entry for each optimisation profile. By default one profile from the bundle.
        architectures: compute capabilities to build for, like ``["86", "89"]`` or ``"86,89"``. By
            default the backend's usual ones, as far as the plugin library has code for them.
        optimization_level: 0 (fast build) to 5; as in ``options``.
        workspace_mib: bound of the engine's scratch memory, in MiB; as in ``options``.
        timing_cache: file of measured kernel times to use and add to (TensorRT only); None for the
            user's own, which is shared by all builds with this TensorRT on this kind of GPU; False
            for none.
        taps: let the engine give out the outputs of the model's transformer layers too, as further
            ``outputs`` or to a ``debug`` listener; needs a bundle.
        verbose_log: file for everything the builder says.

    Returns:
        The report; the engine is complete when the function returns.

    Raises:
        DinatDeployError: any of its subclasses; nothing is written then.
        EngineError: the model, a profile, an option or an architecture is refused, the plugin is
            missing, not all attention nodes became layers of the plugin, or the builder failed or
            crashed.
    """
    progress = progress or Silent()
    started = time.monotonic()
    plan = plan_build(
        model,
        output,
        backend=backend,
        options=options,
        plugin=plugin,
        plugin_library=plugin_library,
        embed_plugin=embed_plugin,
        profiles=profiles,
        architectures=architectures,
        optimization_level=optimization_level,
        workspace_mib=workspace_mib,
        timing_cache=timing_cache,
        taps=taps,
        verbose_log=verbose_log,
    )
    for note in plan.notes:
        progress.note(note)
    with whole_directory(plan.output, replaceable=is_engine) as partial:
        update: dict[str, Any] = {"plan": (partial / PLAN).absolute()}
        with progress.stage("Reading the ONNX file"):
            source = source_of(plan)
            if plan.strip_body:
                stripped = (partial / _STRIPPED).absolute()
                update["model"] = strip_body(plan.task.model, stripped, plan.model.external)
        builder = builder_for(plan.flavor)
        outcome = builder.build(plan.task.model_copy(update=update), progress)
        with progress.stage("Writing the manifest"):
            shutil.rmtree(partial / _STRIPPED, ignore_errors=True)
            manifest = _manifest(plan, source, outcome, partial / PLAN)
            (partial / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    notes = [*plan.notes, *_remember(manifest, plan.output / PLAN)]
    for note in notes[len(plan.notes) :]:
        progress.note(note)
    return BuildReport(
        path=plan.output,
        manifest=manifest,
        seconds=round(time.monotonic() - started, 3),
        parse_seconds=outcome.parse_seconds,
        build_seconds=outcome.build_seconds,
        peak_memory=outcome.peak_memory,
        timing_cache=plan.task.timing_cache,
        timing_cache_hits=outcome.timing_cache_hits,
        notes=notes,
        warnings=outcome.warnings,
    )


def _remember(manifest: EngineManifest, plan: Path) -> list[str]:
    """Record a plan with host code as built here, so that it may run here."""
    if not manifest.host_code:
        return []
    try:
        trust.remember(manifest.plan.sha256, plan, "built")
    except OutputError as error:
        return [f"To run the engine will take --trust: {error.cause}"]
    return []


def source_of(plan: BuildPlan) -> OnnxSource:
    """The ONNX file of a plan, as the manifest records it."""
    if plan.bundle is not None and not plan.model.external:
        # Its digest was compared when the bundle was found.
        file = plan.model.path.name
        source = OnnxSource(file=file, sha256=plan.bundle.digest(file))
    else:
        source = onnx_source(plan.model.path, plan.model.external)
    return source.model_copy(update={"body_stripped": plan.strip_body})


def _manifest(
    plan: BuildPlan, source: OnnxSource, outcome: BuildOutcome, file: Path
) -> EngineManifest:
    task = plan.task
    return EngineManifest(
        model=plan.bundle.manifest.name if plan.bundle else None,
        runtime=Runtime(
            flavor=plan.flavor,
            version=outcome.version,
            platform=f"{platform.system()} {platform.machine()}",
        ),
        architectures=task.architectures,
        gpu=outcome.gpu,
        host_code=_host_code(plan, file),
        precision=plan.model.precision,
        inputs=_named(outcome.inputs, plan.model.inputs),
        outputs=_named(outcome.outputs, plan.model.outputs),
        profiles=task.profiles,
        options=task.options,
        onnx=source,
        plugin=_plugin_info(task.plugin),
        layers=LayerInfo(
            types=outcome.layers,
            plugin=outcome.plugin_layers,
            body=outcome.body_nodes,
            engine=outcome.engine_layers,
            dla_unsupported=outcome.dla_unsupported,
        ),
        taps=plan.taps,
        plan=PlanInfo(file=PLAN, sha256=sha256(file), bytes=file.stat().st_size),
    )


def _host_code(plan: BuildPlan, file: Path) -> list[str]:
    """What in the plan runs on the processor: by what was asked for, or by what is inside."""
    task = plan.task
    reasons = []
    if task.plugin is not None and task.plugin.embed:
        reasons.append(f"the plugin library {task.plugin.library.name}")
    if task.options.version_compatible:
        reasons.append(f"the lean runtime of TensorRT {plan.version}")
    if not reasons:
        reasons += [f"a library for {entry}" for entry in trust.libraries_inside(file)[:1]]
    return reasons


def _named(tensors: Sequence[TensorSpec], originals: Sequence[GraphTensor]) -> list[TensorSpec]:
    """The engine's tensors, with the ONNX file's names of dynamic dimensions."""
    known = {entry.name: entry.shape for entry in originals}
    return [
        tensor.model_copy(update={"shape": list(known[tensor.name])})
        if "?" in tensor.shape and len(known.get(tensor.name, ())) == len(tensor.shape)
        else tensor
        for tensor in tensors
    ]


def _plugin_info(request: PluginRequest | None) -> PluginInfo | None:
    if request is None:
        return None
    return PluginInfo(
        operators=request.operators,
        namespace=request.namespace,
        version=request.version,
        library=request.library.name,
        library_version=library_version(request.library),
        sha256=sha256(request.library),
        embedded=request.embed,
    )
