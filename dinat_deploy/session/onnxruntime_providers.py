"""ONNX Runtime's execution providers for NVIDIA GPUs.

ONNX Runtime takes a provider that cannot run off its list, with a line in its log, and goes on with
the CPU. Here the provider that was asked for runs, or there is an error that says what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module, util
from pathlib import Path
from typing import Any, Literal, get_args

from dinat_deploy.errors import DinatDeployError, MissingDependencyError
from dinat_deploy.files import sha256
from dinat_deploy.native import cache_directory

ProviderName = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]
PROVIDERS: tuple[str, ...] = get_args(ProviderName)

CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
NAMES: dict[str, str] = {
    "cpu": CPU,
    "cuda": _CUDA,
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
TITLES: dict[str, str] = {
    "cpu": "CPU",
    "cuda": "CUDA",
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
}
_FILES = {
    "cuda": "libonnxruntime_providers_cuda.so",
    "tensorrt": "libonnxruntime_providers_tensorrt.so",
}
# NVIDIA's package with the provider for TensorRT-RTX, which is loaded into ONNX Runtime.
_RTX_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"
# Both packages install the same module, so that one overwrites the other.
_INSTALL_GPU = "pip uninstall onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]'"
_INSTALL: dict[str, str] = {
    "cuda": _INSTALL_GPU,
    "tensorrt": f"{_INSTALL_GPU}; pip install tensorrt of the version that it is built for",
    "tensorrt-rtx": "pip install 'onnxruntime>=1.24' onnxruntime-ep-nv-tensorrt-rtx",
}
_NAME_BYTES = 256


@dataclass(frozen=True)
class ProviderOptions:
    """How a provider runs.

    Attributes:
        device: number of the GPU.
        cuda_graph: record the kernels of a run and replay them.
        cache: folder for engines that the provider builds, used by nobody else.
        plugin_library: of TensorRT, with our operators, for the provider of the same name.
    """

    device: int = 0
    cuda_graph: bool = False
    cache: Path | None = None
    plugin_library: Path | None = None


@dataclass(frozen=True)
class Chosen:
    """What a session is created with: ``InferenceSession(..., providers=providers)``.

    Attributes:
        providers: by precedence; None if the session options hold them already.
    """

    name: ProviderName
    providers: list[str | tuple[str, dict[str, str]]] | None = field(default_factory=list)


def choose(runtime: Any, session_options: Any, name: str, options: ProviderOptions) -> Chosen:
    """Set a provider up.

    Args:
        runtime: the module ``onnxruntime``.
        session_options: to which a provider from a package of its own is added.
        name: one of ``PROVIDERS``.

    Raises:
        MissingDependencyError: there is no GPU, or a package or library is missing.
    """
    provider: ProviderName = name  # type: ignore[assignment]
    if provider == "cpu":
        return Chosen(provider, [CPU])
    _require_gpu(provider, options.device)
    settings = provider_settings(provider, options)
    available = runtime.get_available_providers()
    if NAMES[provider] in available:
        _load_libraries(runtime, provider)
        order: list[str | tuple[str, dict[str, str]]] = [(NAMES[provider], settings)]
        if provider != "cuda" and _CUDA in available:
            # What TensorRT does not take still runs on the GPU.
            rest = ProviderOptions(device=options.device)
            order.append((_CUDA, provider_settings("cuda", rest)))
        return Chosen(provider, [*order, CPU])
    if provider == "tensorrt-rtx" and util.find_spec(_RTX_PACKAGE) is not None:
        _add_rtx(runtime, session_options, settings, options.device)
        return Chosen(provider, None)
    raise MissingDependencyError(
        f"ONNX Runtime {runtime.__version__} here has no {NAMES[provider]}; it has "
        f"{', '.join(available)}.",
        _INSTALL[provider],
    )


def provider_settings(provider: ProviderName, options: ProviderOptions) -> dict[str, str]:
    """The provider's options, in its own words."""
    graph = str(int(options.cuda_graph))
    settings = {"device_id": str(options.device)}
    if provider == "cuda":
        # As PyTorch and our engines: float32 is float32, unless the user wants it otherwise.
        return {**settings, "enable_cuda_graph": graph, "use_tf32": "0"}
    if provider == "tensorrt-rtx":
        settings["enable_cuda_graph"] = graph
        if options.cache is not None:
            settings["nv_runtime_cache_path"] = str(options.cache)
        return settings
    settings["trt_cuda_graph_enable"] = graph
    if options.cache is not None:
        settings |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(options.cache),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(options.cache),
        }
    if options.plugin_library is not None:
        settings["trt_extra_plugin_lib_paths"] = str(options.plugin_library.absolute())
    return settings


def engine_cache(provider: ProviderName, runtime_version: str, model: Path) -> Path:
    """A folder for the engines of one model, made if need be.

    Engines are code that is run when they are loaded, so the folder is for this user alone. It is
    one for each model, because TensorRT's provider names its files after the graph's structure, and
    would take the engine of another model with other weights.

    Raises:
        DinatDeployError: it belongs to somebody else or cannot be made.
    """
    place = cache_directory() / "onnxruntime" / provider / runtime_version / sha256(model)[:16]
    try:
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o700)
    except OSError as error:
        raise DinatDeployError(
            f"{place}, for engines of ONNX Runtime, cannot be used: {error.strerror}.",
            "Remove it, or set XDG_CACHE_HOME to a folder of your own.",
        ) from None
    return place


def confirm(session: Any, chosen: Chosen) -> None:
    """Raise :class:`MissingDependencyError` if a session does not run on the chosen provider."""
    running = session.get_providers()
    if running and running[0] == NAMES[chosen.name]:
        return
    raise MissingDependencyError(
        f"ONNX Runtime could not start {NAMES[chosen.name]} and would run on "
        f"{', '.join(running)}; its log above says why.",
        f"Mend that, or install it again: {_INSTALL[chosen.name]}.",
    )


def nodes_by_provider(session: Any) -> dict[str, int]:
    """Number of nodes by provider, after optimization; empty where ONNX Runtime does not tell.

    The session must have been created with ``session.record_ep_graph_assignment_info``.
    """
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    if ask is None:  # before 1.24
        return {}
    counts: Counter[str] = Counter()
    for part in ask():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)


def note_of_strays(counts: Mapping[str, int], provider: str) -> str | None:
    """A sentence if nodes run elsewhere than asked."""
    total = sum(counts.values())
    elsewhere = {name: count for name, count in counts.items() if name != NAMES[provider]}
    if not elsewhere:
        return None
    listed = ", ".join(f"{count} on {name}" for name, count in elsewhere.items())
    return f"Of {total} nodes, {listed} instead of {NAMES[provider]}."


def gpu_names() -> list[str]:
    """Names of the GPUs that CUDA programs see here, in its order; none without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    names = []
    for number in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
        known = driver.cuDeviceGet(ctypes.byref(device), number) == 0
        if known and driver.cuDeviceGetName(name, _NAME_BYTES, device) == 0:
            names.append(name.value.decode(errors="replace"))
        else:
            names.append(f"GPU {number}")
    return names


def _require_gpu(provider: ProviderName, device: int) -> None:
    names = gpu_names()
    if not names:
        raise MissingDependencyError(
            f"ONNX Runtime's {TITLES[provider]} provider needs an NVIDIA GPU with its driver, and "
            "this machine has none.",
            "Run it on a machine with a GPU, or in ONNX Runtime on the CPU.",
        )
    if not 0 <= device < len(names):
        raise MissingDependencyError(
            f"There is no GPU {device} here; there are {len(names)}: {', '.join(names)}.",
            "Choose another.",
        )


def _load_libraries(runtime: Any, provider: ProviderName) -> None:
    """Load what the provider links to: ONNX Runtime only logs that it did not find it."""
    preload = getattr(runtime, "preload_dlls", None)  # since 1.21
    if preload is not None:
        # It prints what it does not find; whether that is needed is seen below.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            preload()
    if provider == "tensorrt" and util.find_spec("tensorrt") is not None:
        # Importing it loads libnvinfer from its package.
        with contextlib.suppress(ImportError):
            import_module("tensorrt")
    folder = Path(runtime.__file__).parent / "capi"
    file = _FILES.get(provider)
    if file is None or not (folder / file).is_file():
        return
    try:
        # The provider takes symbols from the first, which links to nothing.
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / file))
    except OSError as error:
        built = getattr(runtime, "cuda_version", "") or "of an unknown version"
        raise MissingDependencyError(
            f"ONNX Runtime's {TITLES[provider]} provider cannot be loaded: {error}.",
            f"It is built for CUDA {built}: {_INSTALL[provider]}.",
        ) from None


def _add_rtx(runtime: Any, session_options: Any, settings: dict[str, str], device: int) -> None:
    package = import_module(_RTX_PACKAGE)
    name = package.get_ep_name()
    try:
        if not any(found.ep_name == name for found in runtime.get_ep_devices()):
            runtime.register_execution_provider_library(name, package.get_library_path())
        devices = [found for found in runtime.get_ep_devices() if found.ep_name == name]
    except AttributeError:
        raise MissingDependencyError(
            f"ONNX Runtime {runtime.__version__} takes no providers from other packages, such as "
            "the one for TensorRT-RTX.",
            "pip install 'onnxruntime>=1.24'",
        ) from None
    except Exception as error:
        raise MissingDependencyError(
            f"ONNX Runtime's TensorRT-RTX provider cannot be loaded: {_first_line(error)}.",
            _INSTALL["tensorrt-rtx"],
        ) from None
    if device >= len(devices):
        raise MissingDependencyError(
            f"ONNX Runtime's TensorRT-RTX provider takes {len(devices)} of the GPUs in this "
            f"machine, and GPU {device} is asked for.",
            "It needs an RTX GPU from Ampere on; use the provider for CUDA or TensorRT elsewhere.",
        )
    # The device is chosen by its handle here.
    rest = {key: value for key, value in settings.items() if key != "device_id"}
    session_options.add_provider_for_devices([devices[device]], rest)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
