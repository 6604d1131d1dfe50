"""From the options of a build to TensorRT's builder configuration."""

from __future__ import annotations

from typing import Any

from dinat_deploy.engine.builder import LOW_MEMORY_TACTICS_MIB, BuilderOptions, BuildTask
from dinat_deploy.engine.network import add_profiles, layers_of
from dinat_deploy.errors import EngineError
from dinat_deploy.session.tensorrt_api import HARDWARE_LEVELS, listed


def configure(trt: Any, builder: Any, network: Any, task: BuildTask) -> tuple[Any, list[str]]:
    """The builder's configuration for a task, all but the timing cache and the monitor.

    Returns:
        The configuration, and the layers that the DLA does not support, if it is to be used.

    Raises:
        EngineError: TensorRT does not have what is asked for, or the machine does not.
    """
    options = task.options
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if task.flavor == "tensorrt-rtx":
        _set_architectures(trt, config, task.architectures)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.scratch_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.scratch_mib << 20)
    if options.low_memory:
        tactics = LOW_MEMORY_TACTICS_MIB << 20
        config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, tactics)
        # Branches that run beside each other need their activations at the same time.
        config.max_aux_streams = 0
    if options.hardware_compatibility != "none":
        member, _, _ = HARDWARE_LEVELS[options.hardware_compatibility]
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, member)
    _set_flags(trt, config, options)
    if task.plugin is not None and task.plugin.embed:
        config.plugins_to_serialize = [str(task.plugin.library)]
    add_profiles(builder, config, task.profiles)
    unsupported = []
    if options.dla_core is not None:
        unsupported = _use_dla(trt, builder, network, config, options, options.dla_core)
    return config, unsupported


def _set_architectures(trt: Any, config: Any, architectures: list[str]) -> None:
    config.num_compute_capabilities = len(architectures)
    for number, architecture in enumerate(architectures):
        capability = getattr(trt.ComputeCapability, f"SM{architecture}", None)
        if capability is None:
            raise EngineError(
                f"TensorRT-RTX {trt.__version__} cannot build for compute capability "
                f"{architecture}.",
                "Upgrade it with `pip install -U tensorrt-rtx`, or leave it out of --arch.",
            )
        config.set_compute_capability(capability, number)


def _set_flags(trt: Any, config: Any, options: BuilderOptions) -> None:
    # On by default in every version; a float32 model is meant to be computed in float32.
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.strip_weights:
        # Without REFIT the weights that come back later must be those of the build.
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)


def _use_dla(
    trt: Any, builder: Any, network: Any, config: Any, options: BuilderOptions, core: int
) -> list[str]:
    """Prefer the DLA; gives the layers that it does not support."""
    cores = builder.num_DLA_cores
    if core >= cores:
        has = f"has {cores} of them" if cores else "has none"
        raise EngineError(
            f"DLA core {core} is wanted, and this machine {has} that TensorRT {trt.__version__} "
            "can use.",
            "Choose another core, or build for the GPU. DLA cores are in Jetson Orin; TensorRT "
            "11.0 to 11.4.0 cannot use them.",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    unsupported = [
        f"{layer.name} ({layer.type.name.lower()})"
        for layer in layers_of(network)
        if layer.type != trt.LayerType.CONSTANT and not config.can_run_on_DLA(layer)
    ]
    if options.gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    elif unsupported:
        raise EngineError(
            f"DLA core {core} does not support {len(unsupported)} of {network.num_layers} layers, "
            f"and the GPU may not take them:{listed(unsupported)}",
            "Allow the GPU to run them, or build for the GPU alone.",
        )
    return unsupported
