"""Everything that we use of TensorRT's Python interface exists in NVIDIA's own bindings.

What we use comes out of our code's syntax (trt_usage.py), what exists out of the real modules
(nvidia_bindings.py). No GPU is needed, and no TensorRT.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import dinat_deploy
from dinat_deploy.engine.tensorrt_rtx import ARCHITECTURES
from dinat_deploy.session.tensorrt_api import HARDWARE_LEVELS, numbers
from tests.engine.nvidia_bindings import RELEASES, Bindings, Surface, rtx_surface, surface
from tests.engine.trt_usage import Uses, uses_of

PACKAGE = Path(dinat_deploy.__file__).parent
BUILDING = ("configuration", "inspector", "measured", "network", "worker")
MODULES = [PACKAGE / "engine" / f"{name}.py" for name in BUILDING]
MODULES += sorted((PACKAGE / "session").glob("tensorrt_*.py"))

# What only some releases have: class and attribute, the first release that has it. Our code asks for
# it first, or refuses an option without it.
SINCE: dict[tuple[str, str], str] = {
    ("HardwareCompatibilityLevel", "SAME_COMPUTE_CAPABILITY"): "10.9",
    ("IExecutionContext", "set_device_memory"): "10.3",  # 10.1 at the earliest
    ("", "EngineStat"): "10.14",
    ("EngineStat", "TOTAL_WEIGHTS_SIZE"): "10.14",
    ("ICudaEngine", "get_engine_stat"): "10.14",
}
# What is only used with TensorRT-RTX.
RTX: set[tuple[str, str]] = {
    ("", "ComputeCapability"),
    ("", "DynamicShapesKernelSpecializationStrategy"),
    ("DynamicShapesKernelSpecializationStrategy", "EAGER"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("ICudaEngine", "create_runtime_config"),
    ("IExecutionContext", "is_stream_capturable"),
    ("IRuntimeConfig", "create_runtime_cache"),
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
    ("IRuntimeConfig", "set_execution_context_allocation_strategy"),
    ("IRuntimeConfig", "set_runtime_cache"),
}
# What TensorRT-RTX lacks and we do not use with it.
NOT_RTX: set[tuple[str, str]] = set()
# Members that are taken by a computed name.
COMPUTED = {
    "HardwareCompatibilityLevel": {member for member, _, _ in HARDWARE_LEVELS.values()},
    "ComputeCapability": {f"SM{number}" for number in ARCHITECTURES},
}
# Interfaces that we implement. Their methods are looked up by name in our object, and are no
# attributes of the class: the name must be in the library.
CALLBACKS = ("IDebugListener", "ILogger", "IOutputAllocator", "IProfiler", "IProgressMonitor")


@cache
def uses() -> Uses:
    found = Uses()
    for path in MODULES:
        found |= uses_of(path)
    return found


def used() -> set[tuple[str, str]]:
    """Class and attribute of everything that is used."""
    return {(kind, name) for kind, names in uses().attributes.items() for name in names}


def missing(pairs: set[tuple[str, str]], existing: Surface, library: bytes) -> list[str]:
    """Those that do not exist."""
    return sorted(
        f"{kind or 'module'}.{name}"
        for kind, name in pairs
        if name not in existing.get(kind, {})
        and not (kind in CALLBACKS and name.encode() in library)
    )


def test_all_uses_are_explained() -> None:
    assert uses().unexplained == []
    assert uses().dynamic == COMPUTED.keys()
    # Among them are these, or the search for uses would be broken.
    assert {
        ("Builder", "build_serialized_network"),
        ("BuilderFlag", "STRIP_PLAN"),
        ("EngineInspector", "get_engine_information"),
        ("ITensor", "is_network_output"),
        ("ITimingCache", "combine"),
        ("ParserError", "local_function_stack"),
        ("Runtime", "engine_host_code_allowed"),
        ("IProgressMonitor", "step_complete"),
        ("IExecutionContext", "execute_async_v3"),
    } <= used()
    assert len(used()) > 100


@pytest.mark.parametrize("release", RELEASES)
def test_what_we_use_exists_in_tensorrt(release: str, nvidia: Callable[..., Bindings]) -> None:
    found = nvidia(release)
    library = (found.site / "tensorrt_bindings" / "tensorrt.so").read_bytes()
    later = {pair for pair, since in SINCE.items() if numbers(release) < numbers(since)}
    assert missing(used() - later - RTX, surface(found), library) == []
    levels = {
        ("HardwareCompatibilityLevel", name) for name in COMPUTED["HardwareCompatibilityLevel"]
    }
    assert missing(levels - later, surface(found), library) == []


@pytest.mark.parametrize("release", RELEASES)
def test_what_is_newer_is_not_in_older_releases(
    release: str, nvidia: Callable[..., Bindings]
) -> None:
    """Or the table above, and the versions that our messages name, would be wrong."""
    existing = surface(nvidia(release))
    for (kind, name), since in SINCE.items():
        assert (name in existing.get(kind, {})) is (numbers(release) >= numbers(since)), (
            kind,
            name,
        )


@pytest.mark.rtx
def test_what_we_use_exists_in_tensorrt_rtx() -> None:
    from importlib import util

    found = util.find_spec("tensorrt_rtx_bindings")
    assert found is not None and found.origin is not None
    library = next(Path(found.origin).parent.glob("tensorrt_rtx*.so")).read_bytes()
    assert missing((used() | RTX) - NOT_RTX, rtx_surface(), library) == []
    assert COMPUTED["ComputeCapability"] <= rtx_surface()["ComputeCapability"].keys()
    # The tables hold nothing that we no longer use.
    computed = {(kind, name) for kind, names in COMPUTED.items() for name in names}
    assert (RTX | NOT_RTX | SINCE.keys()) <= (used() | computed)


@pytest.mark.parametrize("release", ["10.0", "10.16", "11.4"])
def test_arguments_that_we_name_exist(release: str, nvidia: Callable[..., Bindings]) -> None:
    existing = surface(nvidia(release))
    for (kind, method), keywords in uses().keywords.items():
        for keyword in keywords:
            assert f"{keyword}:" in existing[kind][method], (kind, method, keyword)


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("def f(thing: Any) -> None:\n    thing.run()", "what is thing, annotated Any?"),
        ("def f() -> Any:\n    return 1", "what does f return?"),
        ("def f(engine: Any) -> None:\n    engine.name.lower()", "what is ICudaEngine.name"),
    ],
)
def test_what_the_tables_do_not_explain_is_found(code: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(code)
    assert complaint in uses_of(tmp_path / "module.py").unexplained[0]


def test_uses_are_found_behind_variables_loops_and_subclasses(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        "def f(trt: Any, network: Any, parser: OnnxFile) -> None:\n"
        "    class Monitor(trt.IProgressMonitor):\n"
        "        def phase_strat(self) -> None: ...\n"
        "    kinds = [network.get_layer(i).type.nmae for i in range(network.num_layers)]\n"
        "    flag = 1 << int(trt.BuilderFlag.FP17)\n"
        "    first, (second,) = network.get_input(0), [1]\n"
        "    if hasattr(first, 'is_odd') and (size := first.size): parser.nothing()\n"
        "    flags = {name: getattr(trt.DeviceType, name) for name in kinds}\n"
    )
    found = uses_of(tmp_path / "module.py")
    assert found.attributes == {
        "": {"IProgressMonitor", "BuilderFlag", "DeviceType"},
        "IProgressMonitor": {"phase_strat"},
        "INetworkDefinition": {"get_layer", "num_layers", "get_input"},
        "ILayer": {"type"},
        "LayerType": {"nmae"},
        "BuilderFlag": {"FP17"},
        "ITensor": {"is_odd", "size"},
    }
    assert found.dynamic == {"DeviceType"}
