"""Where versions of TensorRT differ in what running an engine needs; see also ``tensorrt_api``."""

from __future__ import annotations

from typing import Any

from dinat_deploy.session.tensorrt_api import MODULES, type_name


def create_context(trt: Any, engine: Any, config: Any | None) -> Any:
    """An execution context that is given its scratch memory with :func:`set_device_memory`.

    Args:
        config: of :func:`runtime_config`.
    """
    if config is not None:
        return engine.create_execution_context(config)
    return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)


def runtime_config(trt: Any, engine: Any) -> Any | None:
    """How contexts of TensorRT-RTX are to be made; None for TensorRT, which needs no telling.

    TensorRT-RTX compiles kernels on the device. All contexts share what was compiled, and kernels
    for a shape are compiled when it first runs, not behind its back while it runs with slower ones:
    otherwise times would change during a measurement, and a graph would keep the slower ones.
    """
    if trt.__name__ != MODULES["tensorrt-rtx"] or not hasattr(engine, "create_runtime_config"):
        return None
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(
        trt.ExecutionContextAllocationStrategy.USER_MANAGED
    )
    strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is not None:
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    if hasattr(config, "create_runtime_cache"):
        config.set_runtime_cache(config.create_runtime_cache())
    return config


def set_device_memory(context: Any, address: int, size: int) -> None:
    """Give a context its scratch memory, aligned to 256 bytes."""
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(address, size)
    else:  # 10.0
        context.device_memory = address


def may_be_captured(context: Any, stream: int) -> bool:
    """Whether a context says that its launches can be recorded; TensorRT itself does not tell."""
    return not hasattr(context, "is_stream_capturable") or context.is_stream_capturable(stream)


def weight_bytes(trt: Any, engine: Any) -> int | None:
    """Bytes of an engine's weights, where this version tells (from 10.14 on)."""
    if not hasattr(engine, "get_engine_stat"):
        return None
    size = int(engine.get_engine_stat(trt.EngineStat.TOTAL_WEIGHTS_SIZE))
    return size if size > 0 else None


def element_type(dtype: Any) -> str:
    """TensorRT's name of an element type as NumPy and PyTorch call it."""
    name = type_name(dtype)
    return "float32" if name == "float" else name
