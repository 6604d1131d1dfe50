"""The steps of a deployment: what each depends on, and what it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from dinat_deploy import __version__
from dinat_deploy.bundle import (
    EXTERNAL_DATA,
    MODEL,
    REFERENCE,
    external_data_name,
    open_bundle,
    variant_name,
)
from dinat_deploy.engine.builder import PLAN
from dinat_deploy.engine.devices import current_gpu
from dinat_deploy.engine.manifest import MANIFEST, open_engine
from dinat_deploy.errors import DinatDeployError
from dinat_deploy.files import sha256, write_whole
from dinat_deploy.pipeline.building import BuildPlan, build, plan_build, source_of
from dinat_deploy.pipeline.deploy_record import StepName, data_state, digests, key, request_key
from dinat_deploy.pipeline.requests import ModelRequest
from dinat_deploy.progress import Progress

VERIFICATION, BENCH = "verification.json", "bench"


@dataclass(frozen=True)
class DeployOptions:
    """Everything but the model.

    Attributes:
        export: arguments of :func:`dinat_deploy.export` beside request and output.
        precision: of the engine; ``fp32`` is what was exported.
        calibrate: arguments of :func:`dinat_deploy.calibrate` beside bundle and precision, for
            ``int8`` and ``fp8``: ``data`` at least.
        build: arguments of :func:`dinat_deploy.build` beside model and output.
        verify: arguments of :func:`dinat_deploy.verify` beside the artefact.
        bench: arguments of :func:`dinat_deploy.bench` beside the artefacts.
        run: verify and measure the engine, which needs the GPU that it is for.
        force: do every step again.
    """

    export: Mapping[str, Any] = field(default_factory=dict)
    precision: Literal["fp32", "fp16", "bf16", "int8", "fp8"] = "fp32"
    calibrate: Mapping[str, Any] = field(default_factory=dict)
    build: Mapping[str, Any] = field(default_factory=dict)
    verify: Mapping[str, Any] = field(default_factory=dict)
    bench: Mapping[str, Any] = field(default_factory=dict)
    run: bool = True
    force: bool = False


def _gpu() -> dict[str, Any] | None:
    gpu = current_gpu()
    return gpu.model_dump() if gpu else None


class FailedStepError(DinatDeployError):
    """A step that did its work and whose answer is no; the sentence is its result."""


class Step(Protocol):
    """One step. All but the first can be asked only when those before it are done."""

    name: StepName
    purpose: str

    @property
    def slot(self) -> str:
        """What the step makes, as the record calls it."""
        ...

    def key(self) -> str:
        """Digest of everything that the result depends on."""
        ...

    def files(self) -> list[Path]:
        """What the step has written; files that are not there are optional ones."""
        ...

    def run(self, progress: Progress) -> str:
        """Do it.

        Returns:
            What came out, in a sentence without a full stop.

        Raises:
            FailedStepError: it was done, and the answer is no.
        """
        ...


class Export:
    """A model to a bundle."""

    name: StepName = "export"
    slot = "export"

    def __init__(self, bundle: Path, request: ModelRequest, options: Mapping[str, Any]) -> None:
        what = request.model or request.checkpoint or request.hf or request.config
        self.purpose = f"export {what} to {bundle}"
        self._bundle, self._request, self._options = bundle, request, options

    def key(self) -> str:
        return request_key(self._request, self._options)

    def files(self) -> list[Path]:
        # Not model.json: converting a bundle adds to it.
        return [self._bundle / name for name in (MODEL, EXTERNAL_DATA, REFERENCE)]

    def run(self, progress: Progress) -> str:
        from dinat_deploy.pipeline.exporting import export

        report = export(self._request, self._bundle, progress=progress, **self._options)
        graph, checked = report.manifest.graph, report.manifest.verification
        nodes = f"{graph.op_nodes} attention nodes, {report.file_size / 1e6:.1f} MB"
        if checked is None:
            return f"{nodes}, not compared with PyTorch"
        return f"{nodes}, within {checked.max_abs_error:.1e} of PyTorch"


class Precision:
    """The bundle's model in another precision, beside the exported one."""

    name: StepName = "precision"

    def __init__(
        self,
        bundle: Path,
        precision: Literal["fp16", "bf16", "int8", "fp8"],
        options: Mapping[str, Any],
    ) -> None:
        quantized = precision in ("int8", "fp8")
        how = f", calibrated on {options.get('data')}" if quantized else ""
        self.purpose = f"convert the model to {precision}{how}"
        self.slot = f"precision:{precision}"
        self._bundle, self._precision = bundle, precision
        self._options = options if quantized else None

    def key(self) -> str:
        model = open_bundle(self._bundle).model_path
        source = digests(self._bundle, [model, self._bundle / EXTERNAL_DATA])
        content: dict[str, Any] = {"model": source, "precision": self._precision}
        content["version"] = __version__
        if self._options is not None:
            content |= {"options": dict(self._options), "data": data_state(self._options["data"])}
        return key(content)

    def files(self) -> list[Path]:
        file = variant_name(self._precision)
        return [self._bundle / file, self._bundle / external_data_name(file)]

    def run(self, progress: Progress) -> str:
        if self._options is not None and self._precision in ("int8", "fp8"):
            from dinat_deploy.pipeline.calibrating import calibrate

            made = calibrate(
                self._bundle, precision=self._precision, progress=progress, **self._options
            )
            report = made.conversion
            assert report is not None
        else:
            from dinat_deploy.pipeline.converting import convert

            report = convert(self._bundle, self._precision, progress=progress)
        variant, quantization = report.variant, report.variant.quantization
        kept = sum(len(island.nodes) for island in variant.float32)
        text = f"{self._precision}, {kept} nodes kept in float32"
        if quantization is not None:
            text = (
                f"{self._precision} for {quantization.macs:.1%} of the multiply-accumulates, "
                f"the rest in {quantization.rest}"
            )
        checked = variant.verification
        if checked is None:
            return text
        how = " (simulated)" if checked.simulated else ""
        return f"{text}, within {checked.max_abs_error:.1e} of PyTorch{how}"


class Build:
    """A bundle to an engine."""

    name: StepName = "build"

    def __init__(self, bundle: Path, precision: str, options: Mapping[str, Any]) -> None:
        self.purpose = f"build the engine with {options.get('backend') or 'the TensorRT at hand'}"
        self._bundle, self._precision, self._options = bundle, precision, options

    @property
    def _model(self) -> Path:
        return open_bundle(self._bundle).variant_path(self._precision)

    @cached_property
    def plan(self) -> BuildPlan:
        return plan_build(self._model, **self._options)

    @property
    def engine(self) -> Path:
        """Directory of the engine."""
        return self.plan.output

    @property
    def slot(self) -> str:
        return f"build:{self.engine.name}"

    def key(self) -> str:
        aside = {"model", "plan", "verbose_log", "timing_cache"}  # they do not change the engine
        plan = self.plan
        return key(
            {
                "task": plan.task.model_dump(mode="json", exclude=aside),
                "builder": plan.version,
                "version": __version__,
                "plugin": sha256(plan.task.plugin.library) if plan.task.plugin else None,
                "onnx": source_of(plan).model_dump(),
                "gpu": _gpu() if plan.flavor == "tensorrt" else None,
            }
        )

    def files(self) -> list[Path]:
        return [self.engine / PLAN, self.engine / MANIFEST]

    def run(self, progress: Progress) -> str:
        manifest = build(self._model, progress=progress, **self._options).manifest
        plugin, body = manifest.layers.plugin, manifest.layers.body
        how = f"{len(plugin)} plugin layers" if plugin else f"{len(body)} nodes from the body"
        return (
            f"{manifest.runtime.flavor} {manifest.runtime.version}, "
            f"{manifest.plan.bytes / 1e6:.1f} MB, {how}"
        )


class _OnEngine:
    """What the two steps share that run the engine."""

    name: StepName

    def __init__(self, build: Build, options: Mapping[str, Any]) -> None:
        self._build, self._options = build, options

    @property
    def slot(self) -> str:
        return f"{self.name}:{self._build.engine.name}"

    def key(self) -> str:
        plan = open_engine(self._build.engine).manifest.plan.sha256
        options = dict(self._options)
        return key({"plan": plan, "gpu": _gpu(), "options": options, "version": __version__})


class Verify(_OnEngine):
    """The engine against PyTorch."""

    name: StepName = "verify"
    purpose = "compare the engine with PyTorch"

    def files(self) -> list[Path]:
        return [self._build.engine / VERIFICATION]

    def run(self, progress: Progress) -> str:
        from dinat_deploy.pipeline.verifying import verify

        report = verify(self._build.engine, progress=progress, **self._options)
        text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False)
        write_whole(self._build.engine / VERIFICATION, text + "\n")
        worst = max(errors.max_abs for case in report.cases for errors in case.outputs.values())
        if not report.passed:
            raise FailedStepError(
                f"the engine differs from {report.reference} by up to {worst:.2e}",
                "`dinat-deploy verify` on the engine shows every output.",
            )
        return f"within {worst:.1e} of {report.reference} on {len(report.cases)} inputs"


class Bench(_OnEngine):
    """How fast the engine is."""

    name: StepName = "bench"
    purpose = "measure the engine"

    def files(self) -> list[Path]:
        return [self._build.engine / f"{BENCH}.{kind}" for kind in ("json", "md")]

    def run(self, progress: Progress) -> str:
        from dinat_deploy.measurement.report import to_json, to_markdown
        from dinat_deploy.pipeline.benching import bench

        report = bench([str(self._build.engine)], progress=progress, **self._options)
        write_whole(self._build.engine / f"{BENCH}.md", to_markdown(report))
        write_whole(self._build.engine / f"{BENCH}.json", to_json(report))
        result = report.results[0]
        return (
            f"median {result.latency.median:.3f} ms for batch {result.batch}, "
            f"{result.throughput:.0f} images/s"
        )
