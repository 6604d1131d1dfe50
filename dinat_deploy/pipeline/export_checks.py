"""What an exported model is compared on, and the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dinat_deploy.bundle import Case, Verification
from dinat_deploy.detection_parity import compare_outputs
from dinat_deploy.errors import ExportError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import Decoder
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.parity import Errors, Tolerance
from dinat_deploy.pipeline.sources import ModelSource
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession
from dinat_deploy.session.torch_session import TorchSession


def case_shapes(
    config: ModelConfig,
    batch: int,
    dynamic: Sequence[str],
    bounds: tuple[int, int] | None,
) -> list[tuple[int, int, int, int]]:
    """Input shapes to compare at: the default twice, and others along every dynamic axis."""
    channels, (height, width) = config.in_channels, config.image_size
    default = (batch, channels, height, width)
    if not dynamic:
        return [default, default]
    shapes = [default]
    if "batch" in dynamic:
        shapes = [(1, channels, height, width), (3, channels, height, width)]
    if bounds is not None:
        rows = shapes[0][0]
        low, high = bounds
        # Not square, not a multiple of any stride; and the smallest.
        shapes.append((rows, channels, min(height + 13, high), min(width + 38, high)))
        shapes.append((rows, channels, low, low))
    return shapes


def record(
    source: ModelSource, image: str, shapes: Sequence[tuple[int, int, int, int]]
) -> list[Case]:
    """What PyTorch makes of made-up images of these shapes; ``image`` is the input's name."""
    session = TorchSession(source.module, [image], source.config.output_names)
    cases = []
    for number, shape in enumerate(shapes):
        feeds = {image: seeded_image(shape, number)}
        name = f"{number}-{'x'.join(str(size) for size in shape)}"
        cases.append(Case(name, feeds, session.run(feeds)))
    return cases


def check(
    path: Path, cases: Sequence[Case], tolerance: Tolerance, decoder: Decoder | None
) -> Verification:
    """Compare an ONNX file in ONNX Runtime with what PyTorch computed.

    Raises:
        ExportError: an output is off by more than the tolerance.
    """
    session = OnnxRuntimeSession(path)
    worst: Errors | None = None
    for case in cases:
        run = session.run(case.inputs)
        found = compare_outputs(case.outputs, run, decoder, tolerance)
        for name, errors in found.items():
            if not errors.passed:
                raise ExportError(
                    f"The ONNX file differs from PyTorch: output {name} of case {case.name} is off "
                    f"by {errors.max_abs:.3g}, and {errors.limit:.3g} is allowed.",
                    "Please report this; --no-verify writes the bundle all the same.",
                )
            if worst is None or errors.max_abs / errors.limit > worst.max_abs / worst.limit:
                worst = errors
    assert worst is not None
    return Verification(
        passed=True,
        cases=len(cases),
        max_abs_error=worst.max_abs,
        max_reference=worst.max_reference,
        runtime=session.name,
        **asdict(tolerance),
    )
