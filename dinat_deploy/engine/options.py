"""What a flavour and version of TensorRT does not have, said before anything is started."""

from __future__ import annotations

from dinat_deploy.engine.builder import BuildTask
from dinat_deploy.errors import EngineError
from dinat_deploy.session.tensorrt_api import HARDWARE_LEVELS, numbers

# Oldest GPUs that a plan for several can be built on.
_OLDEST_GPU = {"ampere+": (80, "Ampere (80)"), "same-capability": (75, "Turing (75)")}


def check_tensorrt(task: BuildTask, version: str, capability: str | None) -> None:
    """Refuse what TensorRT cannot do.

    Args:
        version: of TensorRT.
        capability: compute capability of the GPU that builds; None if it is not known.

    Raises:
        EngineError: names the option, the version or GPU, and the cure.
    """
    wish = task.options.hardware_compatibility
    _, since, meaning = HARDWARE_LEVELS[wish]
    if numbers(version)[:2] < since:
        raise EngineError(
            f"Plans for {meaning} (hardware compatibility {wish}) exist since TensorRT "
            f"{'.'.join(map(str, since))}, and {version} is installed.",
            "Use ampere+, or build on every kind of GPU.",
        )
    if wish in _OLDEST_GPU and capability is not None:
        least, name = _OLDEST_GPU[wish]
        if int(capability) < least:
            raise EngineError(
                f"Plans for {meaning} (hardware compatibility {wish}) are built on {name} or "
                f"later, and this GPU has compute capability {capability}.",
                "Build on such a GPU, or without hardware compatibility.",
            )


def check_tensorrt_rtx(task: BuildTask, version: str, capability: str | None) -> None:
    """Refuse what TensorRT-RTX cannot do; arguments as above."""
    options = task.options
    if capability is None and (options.refit or options.strip_weights):
        # Seen with 1.7.1: its compiler fails with a CUDA error on every model with weights.
        raise EngineError(
            f"TensorRT-RTX {version} needs a GPU to build an engine whose weights can be replaced, "
            "and this machine has none (no NVIDIA driver).",
            "Build there, or leave refitting and weight stripping out.",
        )
    if options.hardware_compatibility != "none":
        raise EngineError(
            f"TensorRT-RTX {version} has no hardware compatibility option.",
            "Name the compute capabilities to build for with --arch.",
        )
    if options.version_compatible:
        raise EngineError(
            f"TensorRT-RTX {version} builds no version compatible plans: it brings no lean "
            "runtime.",
            "Build again for every version, or use --backend tensorrt.",
        )
    if options.dla_core is not None:
        raise EngineError(
            f"TensorRT-RTX {version} has no DLA.",
            "Use --backend tensorrt on a Jetson Orin.",
        )
    if task.timing_cache is not None:
        raise EngineError(
            f"TensorRT-RTX {version} has no timing cache: it times no kernels when it builds.",
            "Leave the timing cache out.",
        )
