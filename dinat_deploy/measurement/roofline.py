"""What a model must do, and the least time that a device needs for it.

The floor is the larger of two times: that of the multiplications and additions at the device's peak
rate, and that of reading the weights and inputs and writing the outputs once. Activations that go
through memory, and all that is no matrix product, come on top. A GPU whose cache keeps the weights
from run to run can beat the second time, never the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from dinat_deploy.errors import DinatDeployError
from dinat_deploy.measurement.cpu_limits import cpu_limits
from dinat_deploy.measurement.gpu_table import gpu_figures
from dinat_deploy.measurement.records import Floor, Work
from dinat_deploy.models.complexity import cost
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import UPerNet

_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "int8": 1.0}
_FASTEST_FIRST = ("int8", "float16", "bfloat16", "float32")
_MIB = 1 << 20


def count_work(
    shapes: Mapping[str, Sequence[int]],
    *,
    config: ModelConfig | None = None,
    model: Path | None = None,
    precision: str | None = None,
) -> Work | None:
    """Count one run.

    Args:
        shapes: input name -> shape of that run.
        config: of the model, which is counted from it where it is known; its only input is
            ``[batch, channels, height, width]``.
        model: the ONNX file, counted otherwise; that takes the package onnx.
        precision: types of the weights, such as ``float32`` or ``int8+float16``; float32 if not
            known. Inputs and outputs are taken for float32.

    Returns:
        None if neither is there, or the file cannot be counted completely
        (:func:`dinat_deploy.measurement.onnx_work.count_onnx` says why).
    """
    if config is not None and len(shapes) == 1:
        (shape,) = shapes.values()
        return _from_config(config, shape, precision)
    if model is None:
        return None
    try:
        from dinat_deploy.measurement.onnx_work import count_onnx

        return count_onnx(model, shapes)
    except (ImportError, DinatDeployError):
        return None


def floor(
    work: Work,
    device: str,
    precision: str | None = None,
    *,
    threads: int = 0,
    tf32: bool = False,
    device_tree: Path | None = None,
) -> Floor | None:
    """The least time for some work.

    Args:
        device: ``CPU``, or the name of the GPU as its driver gives it.
        precision: types of the weights; the fastest of them counts. float32 if not known.
        threads: of the CPU; 0 is one for each core. Its rates are measured (about half a second,
            once for every number of threads), with a matrix product and by reading as many bytes
            as the weights have, since a cache may hold them.
        tf32: whether float32 products may run on tensor cores.
        device_tree: where the system describes a Jetson.

    Returns:
        None for a device, or a precision on it, whose figures are not known.
    """
    types = (precision or "float32").split("+")
    fastest = next((name for name in _FASTEST_FIRST if name in types), None)
    if fastest is None:
        return None
    source: Literal["specification", "measured"] = "specification"
    if device.upper() == "CPU":
        if fastest != "float32":
            return None
        limits = cpu_limits(threads, -(-work.weight_bytes // _MIB))
        if limits is None:
            return None
        peak, bandwidth, source = limits.tflops, limits.bandwidth_gbs, "measured"
    else:
        figures = gpu_figures(device, device_tree)
        rate = figures and figures.peak("tf32" if tf32 and fastest == "float32" else fastest)
        if not figures or not rate:
            return None
        device, peak, bandwidth = figures.name, rate, figures.bandwidth
    compute = 2 * work.macs / peak / 1e9
    memory = (work.weight_bytes + work.io_bytes) / bandwidth / 1e6
    return Floor(
        compute=compute,
        memory=memory,
        total=max(compute, memory),
        device=device,
        source=source,
        peak_tflops=peak,
        bandwidth_gbs=bandwidth,
    )


def _from_config(config: ModelConfig, shape: Sequence[int], precision: str | None) -> Work | None:
    if len(shape) != 4:
        return None
    batch, channels, height, width = shape
    try:
        count = cost(config, (height, width))
    except DinatDeployError:  # too small for the model
        return None
    if config.is_backbone:
        sizes = config.feature_sizes((height, width))
        outputs = sum(
            config.dim(level) * sizes[level][0] * sizes[level][1] for level in config.out_levels
        )
    elif isinstance(config.decoder, UPerNet):
        rows, columns = config.feature_sizes((height, width))[0]
        full = config.decoder.full_size
        outputs = config.num_classes * (height * width if full else rows * columns)
    else:
        outputs = config.num_classes or config.dim(len(config.depths) - 1)
    types = [_BYTES[name] for name in (precision or "float32").split("+") if name in _BYTES]
    return Work(
        macs=batch * count.macs,
        attention_macs=batch * count.attention_macs,
        weight_bytes=round(count.parameters * min(types, default=4.0)),
        io_bytes=4 * batch * (channels * height * width + outputs),
        counted_from="config",
    )
