"""``export``: a model to a verified bundle."""

from __future__ import annotations

import bisect
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx_ir as ir
import torch

from dinat_deploy import __version__
from dinat_deploy.bundle import (
    EXTERNAL_DATA,
    MANIFEST,
    MODEL,
    REFERENCE,
    GraphInfo,
    Manifest,
    TensorSpec,
    Verification,
    Weights,
    is_bundle,
    model_digest,
    write_cases,
)
from dinat_deploy.errors import ConfigError
from dinat_deploy.exporter import DEFAULT_OPSET, ExportedGraph, to_onnx
from dinat_deploy.files import whole_directory
from dinat_deploy.graph import functions
from dinat_deploy.graph.weights import parameters_in
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import MaskRCNN
from dinat_deploy.models.weights import digest
from dinat_deploy.parity import Tolerance, tolerance_for
from dinat_deploy.pipeline.export_checks import case_shapes, check, record
from dinat_deploy.pipeline.requests import ModelRequest
from dinat_deploy.pipeline.sources import ModelSource, resolve
from dinat_deploy.progress import Progress, Silent

Dynamic = Literal["batch", "size"]
Body = Literal["standard", "none"]
INPUT = "image"
_LARGEST_DYNAMIC_SIZE = 4096
# Protobuf messages end at 2 GiB; larger models keep their weights in a file beside them.
_LARGEST_FILE = (1 << 31) - (1 << 20)


@dataclass(frozen=True)
class ExportReport:
    """What ``export`` made.

    Attributes:
        path: the bundle.
        manifest: content of its ``model.json``.
        file_size: of the ONNX file and its external data, in bytes.
        notes: choices that were made and that the user should know.
    """

    path: Path
    manifest: Manifest
    file_size: int
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "file_size": self.file_size,
            "notes": self.notes,
            "manifest": self.manifest.model_dump(mode="json"),
        }


def export(
    request: ModelRequest | str,
    output: str | Path,
    *,
    batch: int = 1,
    dynamic: Sequence[Dynamic] = (),
    size_range: tuple[int, int] | None = None,
    opset: int = DEFAULT_OPSET,
    body: Body = "standard",
    verify: bool = True,
    tolerance: Tolerance | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Export a model to a bundle and compare its ONNX file with PyTorch.

    Args:
        request: which model, with which weights; a name alone means made-up weights.
        output: directory of the bundle; an older bundle there is replaced.
        batch: images per run, unless the batch is dynamic.
        dynamic: ``batch`` and / or ``size`` (height and width).
        size_range: smallest and largest side in pixels for a dynamic size; the model's image size
            must lie between. By default from the smallest size at which no layer has to pad its
            map (or the image size, if that is smaller), to 4096.
        opset: version of the standard ONNX operators, 17 to 21.
        body: ``standard`` attaches the operator's body in standard operators, ``none`` leaves the
            operator to a plugin (TensorRT before 10.7 needs that).
        verify: compare with PyTorch in ONNX Runtime before the bundle appears.
        tolerance: largest error that is accepted; by default it depends on the decoder.
        atol, rtol: replace one of its parts.

    Returns:
        The report; the bundle is complete when the function returns.

    Raises:
        DinatDeployError: any of its subclasses; nothing is written then.
        ExportError: also when the ONNX file differs from PyTorch by more than the tolerance.
    """
    progress = progress or Silent()
    if isinstance(request, str):
        request = ModelRequest(model=request)
    _check_options(batch, dynamic, size_range, body)
    target = Path(output)
    with whole_directory(target, replaceable=is_bundle) as partial:
        with progress.stage("Building the model"):
            source = resolve(request)
        if source.weights_source == "seeded":
            progress.note(
                "No checkpoint given: the weights are random "
                f"(seed {source.seed}). Accuracy will be that of chance."
            )
        for note in source.notes:
            progress.note(note[0].upper() + note[1:] + ".")
        config = source.config
        tolerance = tolerance or tolerance_for("float32", decoder=config.decoder)
        _check_detector(config, batch, dynamic)
        bounds = _size_bounds(config, size_range) if "size" in dynamic else None
        graph = _to_graph(source, batch, dynamic, bounds, opset, progress)
        shapes = case_shapes(config, batch, dynamic, bounds)
        with progress.stage("Writing the ONNX file"):
            _save(graph.model, partial)
        with progress.stage("Running PyTorch for reference"):
            cases = record(source, INPUT, shapes)
            write_cases(partial / REFERENCE, cases)
        checked = None
        if verify:
            with progress.stage("Comparing ONNX Runtime with PyTorch"):
                checked = check(
                    partial / MODEL, cases, tolerance.replaced(atol, rtol), config.decoder
                )
        if body == "none":
            with progress.stage("Stripping the operator's body"):
                functions.strip_body(graph.model)
                _save(graph.model, partial)
        with progress.stage("Writing the manifest"):
            info = _graph_info(graph.model, partial, opset, body, bounds)
            manifest = _manifest(source, graph, info, checked)
            (partial / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
            size = sum((partial / name).stat().st_size for name in _model_files(partial))
    return ExportReport(target, manifest, size, source.notes)


def _check_options(
    batch: int, dynamic: Sequence[str], size_range: tuple[int, int] | None, body: str
) -> None:
    known = get_args(Dynamic)
    for item in dynamic:
        if item not in known:
            raise ConfigError(f"Unknown dynamic axis {item!r}.", f"Use {' or '.join(known)}.")
    if body not in get_args(Body):
        raise ConfigError(f"Unknown body {body!r}.", f"Use {' or '.join(get_args(Body))}.")
    if batch < 1:
        raise ConfigError(f"batch must be at least 1, not {batch}.")
    if size_range is not None and "size" not in dynamic:
        raise ConfigError("A size range needs a dynamic size.", "Add --dynamic size.")


def _check_detector(config: ModelConfig, batch: int, dynamic: Sequence[str]) -> None:
    """Detections of several images have no common shape, and proposals depend on the size."""
    if not isinstance(config.decoder, MaskRCNN) or (batch == 1 and not dynamic):
        return
    asked = " and ".join(f"a dynamic {axis}" for axis in dynamic) or f"batch {batch}"
    raise ConfigError(
        f"Mask R-CNN takes one image of one size at a time, and {asked} was asked for.",
        "Leave --batch and --dynamic out; --image-size sets the size.",
    )


def smallest_unpadded_size(config: ModelConfig) -> int:
    """The smallest image side, in pixels, at which no layer pads its map."""
    spans = [max(level) * config.kernel_size for level in config.dilations]

    def fits(side: int) -> bool:
        sizes = config.feature_sizes((side, side))
        return all(size[0] >= span for size, span in zip(sizes, spans, strict=True))

    # Maps grow with the image, and a pixel more than every span needs is always enough.
    sides = range(16, 1 + max(spans) * 4 * 2 ** max(2, len(spans)))
    return sides[bisect.bisect_left(sides, True, key=fits)]


def _size_bounds(config: ModelConfig, asked: tuple[int, int] | None) -> tuple[int, int]:
    """Smallest and largest side in pixels; the model's own image size always lies between."""
    if config.global_attention:
        raise ConfigError(
            "This model attends over a fixed token grid; its size cannot be dynamic.",
            "Export it with a static size.",
        )
    least = _least_dynamic_size(config)
    sides = config.image_size
    if asked is None:
        low = max(least, min(smallest_unpadded_size(config), *sides))
        asked = low, max(_LARGEST_DYNAMIC_SIZE, *sides)
    low, high = asked
    if low < least:
        raise ConfigError(
            f"The size range {low}:{high} starts below {least} pixels, where the last level of "
            "this model has less than two tokens a side.",
            f"Write it as MIN:MAX with MIN from {least}, like {max(least, 224)}:1024.",
        )
    if high - low < 2:
        raise ConfigError(
            f"The size range {low}:{high} holds fewer than three sizes.",
            "Write it as MIN:MAX, like 224:1024, or export a static size.",
        )
    if not all(low <= side <= high for side in sides):
        raise ConfigError(
            f"The image size {sides[0]}x{sides[1]} lies outside the size range {low}:{high}.",
            "Pass an --image-size within the range: pictures are brought to that size.",
        )
    return low, high


def _least_dynamic_size(config: ModelConfig) -> int:
    """The smallest side, in pixels, that a dynamic size may take.

    The tracer takes an axis that may have one token for one that always has, where a convolution's
    output is read channels-last; so the last level has two.
    """
    if config.architecture == "dinat":
        return 4 * 2 ** (len(config.depths) - 1) + 1
    return 16 if config.architecture == "isotropic" else 4


def _to_graph(
    source: ModelSource,
    batch: int,
    dynamic: Sequence[str],
    bounds: tuple[int, int] | None,
    opset: int,
    progress: Progress,
) -> ExportedGraph:
    config = source.config
    axes: dict[int, torch.export.Dim] = {}
    rows = 2 if "batch" in dynamic else batch
    height, width = config.image_size
    if "batch" in dynamic:
        axes[0] = torch.export.Dim("batch", min=1)
    if bounds is not None:
        axes[2] = torch.export.Dim("height", min=bounds[0], max=bounds[1])
        axes[3] = torch.export.Dim("width", min=bounds[0], max=bounds[1])
        # The tracer takes equal sizes for one symbol, and sizes at a bound for constants.
        height = min(max(height, bounds[0] + 1), bounds[1] - 1)
        width = height + 1 if height + 1 < bounds[1] else height - 1
    example = torch.zeros(rows, config.in_channels, height, width)
    return to_onnx(
        source.module,
        [example],
        input_names=[INPUT],
        output_names=config.output_names,
        dynamic=[axes] if axes else (),
        opset=opset,
        tap_modules=source.module.block_names(),
        progress=progress,
    )


def _save(model: ir.Model, directory: Path) -> None:
    path = directory / MODEL
    size = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    for name in _model_files(directory):
        (directory / name).unlink()
    ir.save(model, path, external_data=EXTERNAL_DATA if size > _LARGEST_FILE else None)


def _model_files(directory: Path) -> list[str]:
    return [name for name in (MODEL, EXTERNAL_DATA) if (directory / name).exists()]


def _spec(value: ir.Value) -> TensorSpec:
    assert value.shape is not None and value.dtype is not None and value.name is not None
    shape = [dim if isinstance(dim, int) else str(dim) for dim in value.shape]
    return TensorSpec(name=value.name, dtype=value.dtype.name.lower(), shape=shape)


def _graph_info(
    model: ir.Model,
    directory: Path,
    opset: int,
    body: str,
    bounds: tuple[int, int] | None,
) -> GraphInfo:
    return GraphInfo(
        sha256=model_digest(directory),
        opset=opset,
        ir_version=model.ir_version or 0,
        body=body == "standard",
        inputs=[_spec(value) for value in model.graph.inputs],
        outputs=[_spec(value) for value in model.graph.outputs],
        size_range=bounds,
        op_nodes=len(functions.op_nodes(model)),
    )


def _manifest(
    source: ModelSource,
    graph: ExportedGraph,
    info: GraphInfo,
    checked: Verification | None,
) -> Manifest:
    state = source.module.state_dict()
    kept = parameters_in(graph.model.graph.initializers, state)
    arrays = {name: state[name].numpy() for name in kept}
    return Manifest(
        name=source.name,
        config=source.config,
        weights=Weights(
            source=source.weights_source,
            origin=source.weights_origin,
            sha256=digest(arrays),
            seed=source.seed,
            notes=source.notes,
        ),
        preprocessing=source.preprocessing,
        labels=source.labels,
        palette=source.classes.palette if source.classes else None,
        things=source.classes.things if source.classes else None,
        graph=info,
        taps=graph.taps,
        versions=_versions(),
        verification=checked,
    )


def _versions() -> dict[str, str]:
    packages = ("torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime")
    found = {"dinat_deploy": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found | {"numpy": np.__version__}
