"""Sessions for what was found: an ONNX file in ONNX Runtime, a plan in TensorRT, PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dinat_deploy.bundle import Bundle
from dinat_deploy.errors import BundleError, EngineError, MissingDependencyError
from dinat_deploy.session.onnxruntime_session import OnnxRuntimeSession, import_onnxruntime

if TYPE_CHECKING:
    from dinat_deploy.engine.manifest import Engine
    from dinat_deploy.session.tensorrt_api import Flavor
    from dinat_deploy.session.tensorrt_session import TensorRTSession

# The first bytes of a plan of TensorRT-RTX; those of TensorRT are others.
_RTX_PLAN = b"vtrt"


def onnxruntime_session(bundle: Bundle, taps: Sequence[str] = ()) -> OnnxRuntimeSession:
    """The bundle's model in ONNX Runtime on the CPU, with the operator's library where it is built.

    Raises:
        BundleError: the model was exported without a body, and the library is missing.
        MissingDependencyError: onnxruntime is not installed.
    """
    return onnx_session(bundle.model_path, bundle.manifest.graph.body, taps=taps)


def onnx_session(
    path: Path, has_body: bool, *, provider: str = "cpu", **options: Any
) -> OnnxRuntimeSession:
    """An ONNX file in ONNX Runtime.

    Args:
        has_body: whether the file brings the operator's body.
        provider: see :class:`OnnxRuntimeSession`, as for the other options.

    Raises:
        BundleError: it has no body, and nothing that is here can stand in for it.
        MissingDependencyError: onnxruntime or the provider is missing.
    """
    import_onnxruntime()
    if has_body:
        return OnnxRuntimeSession(path, provider=provider, **options)
    if provider in ("tensorrt", "tensorrt-rtx"):
        if options.get("plugin_library") is None or provider == "tensorrt-rtx":
            raise BundleError(
                f"{path} has no body for the operator, and ONNX Runtime's {provider} provider "
                "was given no plugin for it.",
                "Name TensorRT's plugin with --plugin-library (provider tensorrt only), or export "
                "with --body standard.",
            )
        return OnnxRuntimeSession(path, provider=provider, **options)
    try:
        return OnnxRuntimeSession(path, provider=provider, custom_op=True, **options)
    except MissingDependencyError as error:
        if "operator" not in error.cause and "built without CUDA" not in error.cause:
            raise
        raise BundleError(
            f"{path} has no body for the operator. {error.cause}",
            f"{error.cure} Or export with --body standard.",
        ) from None


def flavor_of(plan: Path) -> Flavor:
    """Which TensorRT wrote a plan that has no manifest."""
    with plan.open("rb") as stream:
        return "tensorrt-rtx" if stream.read(len(_RTX_PLAN)) == _RTX_PLAN else "tensorrt"


def tapped_tensors(engine: Engine) -> dict[str, str]:
    """Layer of the PyTorch model -> tensor that the engine lets out.

    Raises:
        EngineError: it lets none out.
    """
    taps = engine.manifest.taps
    if taps is None:
        raise EngineError(f"{engine.path} lets out no outputs of layers.", engine.rebuild("--taps"))
    return taps.tensors


def engine_session(
    engine: Engine, plan: BinaryIO, plugin_library: Path | None, *, taps: bool
) -> TensorRTSession:
    """An engine, which was checked, in the TensorRT that built it.

    Args:
        plan: the open file that was checked.
        plugin_library: to load before the plan, if the plan needs one.
        taps: return the tensors of :func:`tapped_tensors` as well.

    Raises:
        EngineError: there is no GPU, or TensorRT refuses the plan.
        MissingDependencyError: TensorRT or a CUDA binding is not installed.
    """
    from dinat_deploy.engine.checks import host_code
    from dinat_deploy.session.tensorrt_session import TensorRTSession

    manifest = engine.manifest
    loads = manifest.plugin is not None and not manifest.plugin.embedded
    return TensorRTSession(
        engine.plan_path,
        content=plan,
        flavor=manifest.runtime.flavor,
        plugin_library=plugin_library if loads else None,
        taps=manifest.taps if taps else None,
        # The checks let it through: it was built or trusted on this machine.
        allow_host_code=bool(host_code(engine, plan)),
        dla_core=manifest.options.dla_core,
        attention_nodes=[
            *(layer.node for layer in manifest.layers.plugin),
            *manifest.layers.body,
        ],
    )


def bare_plan_session(plan: Path, plugin_library: Path | None) -> TensorRTSession:
    """A trusted plan without a manifest; raises as :func:`engine_session`.

    Args:
        plugin_library: to load before the plan; None takes the one that is found, as nothing says
            whether the plan needs it.
    """
    from dinat_deploy.native import find_library
    from dinat_deploy.session.tensorrt_session import TensorRTSession

    return TensorRTSession(
        plan,
        flavor=flavor_of(plan),
        plugin_library=plugin_library or find_library("tensorrt"),
        allow_host_code=True,
    )
