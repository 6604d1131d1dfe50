"""Triton's configuration of the model itself: of an ONNX file, or of an engine."""

from __future__ import annotations

from collections.abc import Sequence

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.engine.builder import PLAN
from dinat_deploy.serving.network import Network, described
from dinat_deploy.serving.problems import PackageError
from dinat_deploy.serving.triton_config import (
    DATA_TYPES,
    DYNAMIC,
    DynamicBatching,
    Instances,
    Kind,
    ModelConfig,
    Tensor,
    WarmUp,
)
from dinat_deploy.serving.triton_options import TritonOptions

ONNX_FILE = "model.onnx"  # what Triton looks for
LABELS = "labels.txt"
LIBRARIES = "lib"
_KINDS: dict[str, Kind] = {"cpu": "KIND_CPU", "gpu": "KIND_GPU", "auto": "KIND_AUTO"}


def network_config(network: Network, options: TritonOptions) -> ModelConfig:
    """The configuration of the model.

    Raises:
        PackageError: Triton cannot serve it, or not as the options ask.
    """
    engine = network.engine
    if engine is not None and engine.manifest.runtime.flavor != "tensorrt":
        raise PackageError(
            f"{engine.path} was built by TensorRT-RTX, and Triton's TensorRT back end runs plans "
            "of TensorRT only.",
            "Build it with --backend tensorrt on the GPU that it is for, or package the ONNX file. "
            "--format cpp takes it.",
        )
    if engine is not None and engine.manifest.options.dla_core is not None:
        raise PackageError(
            f"{engine.path} runs on a deep learning accelerator, which only Jetsons have, and its "
            "instances are not written here.",
            "Package an engine for the GPU, or use --format cpp.",
        )
    most = network.max_batch(options.max_batch, options.profile)
    batched = most > 0
    kind = _KINDS[options.kind or ("gpu" if engine is not None else "cpu")]
    if engine is not None and kind == "KIND_CPU":
        raise PackageError(f"{engine.path} is an engine, and --kind cpu is asked for.",
                           "Package the ONNX file for the CPU.")  # fmt: skip
    if engine is None and options.profile:
        raise PackageError(
            f"{network.source} is an ONNX file, and --profile is about engines.", "Leave it out."
        )
    if options.gpus and kind == "KIND_CPU":
        raise PackageError(
            f"GPUs {', '.join(map(str, options.gpus))} are named, and {network.source} is to run "
            "on the CPU.",
            "Add --kind gpu, or leave --gpus out.",
        )
    labels = LABELS if network.labels and network.classifies else ""
    return ModelConfig(
        name=network.name,
        platform="tensorrt_plan" if engine is not None else "onnxruntime_onnx",
        backend="tensorrt" if engine is not None else "onnxruntime",
        max_batch_size=most,
        inputs=tuple(_tensor(spec, batched) for spec in network.inputs),
        outputs=tuple(_tensor(spec, batched, labels) for spec in network.outputs),
        instances=(
            Instances(
                kind,
                options.instances,
                options.gpus,
                (str(options.profile),) if network.profile(options.profile) else (),
            ),
        ),
        batching=_batching(network, options, most),
        warm_up=_warm_up(network, options, most),
        operator_libraries=_operator_libraries(network),
        parameters=_parameters(network, options),
        model_file=PLAN if engine is not None else ONNX_FILE,
    )


def _operator_libraries(network: Network) -> tuple[str, ...]:
    """As ONNX Runtime is told them: relative to the package, which is where start.sh goes."""
    if network.engine is not None or network.library_name is None:
        return ()
    return (f"{LIBRARIES}/{network.library_name}",)


def _parameters(network: Network, options: TritonOptions) -> dict[str, str]:
    if options.threads is None:
        return {}
    if network.engine is not None:
        raise PackageError(
            f"{network.source} is an engine, and --threads is about the CPU.", "Leave it out."
        )
    return {"intra_op_thread_count": str(options.threads)}


def _tensor(spec: TensorSpec, batched: bool, label_file: str = "") -> Tensor:
    data_type = DATA_TYPES.get(spec.dtype)
    if data_type is None:
        raise PackageError(
            f"{described(spec.name, spec.shape)} is of the type {spec.dtype}, which Triton does "
            "not have.",
            "Convert the model so that its inputs and outputs are float32 or float16.",
        )
    return Tensor(spec.name, data_type, triton_dims(spec.shape, batched), label_file)


def triton_dims(shape: Sequence[int | str], batched: bool) -> tuple[int, ...]:
    """Dimensions as Triton writes them: without a batch, dynamic ones as -1."""
    sizes = shape[1:] if batched else shape
    return tuple(size if isinstance(size, int) else DYNAMIC for size in sizes)


def _batching(network: Network, options: TritonOptions, most: int) -> DynamicBatching | None:
    """What Triton's queue does; None if requests are run one by one."""
    if not options.dynamic_batching:
        return None
    if most == 0:
        if options.about_the_queue:
            raise PackageError(
                f"Dynamic batching is asked for, and {network.source} takes no batches.",
                "Export it with --dynamic batch, or leave the options of the queue out.",
            )
        return None
    preferred = options.preferred
    if preferred is None:
        # A batch that the engine is not optimised for may be slower than two that it is.
        sizes = {
            size[0]
            for ranges in network.profile(options.profile).values()
            for size in (ranges.opt, ranges.max)
        }
        preferred = tuple(sorted(size for size in sizes if 1 < size <= most))
    beyond = [size for size in preferred if not 1 <= size <= most]
    if beyond:
        raise PackageError(
            f"Batches of {beyond[0]} are preferred, and {network.source} is served in batches of "
            f"up to {most}.",
            "Ask for more with --max-batch, or name smaller ones.",
        )
    levels = options.priority_levels
    return DynamicBatching(
        preferred=preferred,
        queue_delay=options.queue_delay,
        priority_levels=levels,
        default_priority=levels,  # the lowest
        max_queue_size=options.max_queue_size,
        timeout=options.timeout,
    )


def _warm_up(network: Network, options: TritonOptions, most: int) -> tuple[WarmUp, ...]:
    """Requests of the sizes that matter; none if nothing says how large a dynamic input is."""
    if not options.warm_up:
        return ()
    inputs = []
    for spec in network.inputs:
        dims = _usual_dims(network, spec, options.profile, most > 0)
        if dims is None:
            return ()
        inputs.append(Tensor(spec.name, DATA_TYPES[spec.dtype], dims))
    best = {ranges.opt[0] for ranges in network.profile(options.profile).values()}
    # Triton counts a request to a model that takes no batches as a batch of one.
    sizes = sorted({1, *(size for size in best if size <= most), most}) if most else [1]
    inputs.sort(key=lambda tensor: tensor.name)
    return tuple(WarmUp(f"batch_{size}", size, tuple(inputs)) for size in sizes)


def _usual_dims(
    network: Network, spec: TensorSpec, profile: int, batched: bool
) -> tuple[int, ...] | None:
    """Dimensions of an input that a request may have; None if that is not known."""
    ranges = network.profile(profile).get(spec.name)
    prepared = network.preprocessing(profile)
    found: list[int] = []
    for axis, size in enumerate(spec.shape):
        if batched and axis == 0:
            continue
        if isinstance(size, int):
            found.append(size)
        elif ranges is not None:
            found.append(ranges.opt[axis])
        elif axis == 0:
            found.append(1)
        elif prepared is not None and axis >= 2:
            found.append(prepared.crop[axis - 2])
        else:
            return None
    return tuple(found)
