"""Whether a model's attention is built from the plugin or from the operator's body."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinat_deploy.elf import machine
from dinat_deploy.engine.builder import Obstacle, PluginRequest
from dinat_deploy.engine.onnx_file import OnnxFile
from dinat_deploy.errors import ConfigError, EngineError, NativeError
from dinat_deploy.native import LibraryInfo, find_library, library_info

_CURE = "Build it with `dinat-deploy plugin build`"


@dataclass(frozen=True)
class PluginWish:
    """What the user asks for.

    Attributes:
        use: True for the plugin, False for the body, None for the plugin if there is one.
        library: the plugin library, instead of the one that is found; implies ``use``.
        embed: store the library in the plan; implies ``use``.
    """

    use: bool | None = None
    library: Path | None = None
    embed: bool = False

    def decided(self) -> bool | None:
        """``use`` with what the other two imply; raises ConfigError if they contradict it."""
        if self.library is None and not self.embed:
            return self.use
        if self.use is False:
            raise ConfigError(
                "--no-plugin contradicts --plugin-library and --embed-plugin.", "Leave one out."
            )
        return True


@dataclass(frozen=True)
class Targets:
    """Compute capabilities that an engine is for, and whether the user named them."""

    architectures: list[str]
    named: bool


def choose_plugin(
    onnx: OnnxFile,
    wish: PluginWish,
    targets: Targets,
    obstacle: Obstacle | None,
    notes: list[str],
) -> tuple[PluginRequest | None, list[str]]:
    """Decide between the plugin and the body.

    Args:
        targets: what the engine is to run on. Those that the user did not name are narrowed to the
            ones that the plugin library has code for.
        obstacle: why the builder cannot take plugins at all, if so.
        notes: gets what the user should know of the choice.

    Returns:
        The plugin (None for the body, or if the model has no attention nodes) and the compute
        capabilities to build for.

    Raises:
        ConfigError: the wishes contradict each other.
        EngineError: the plugin is wanted or needed, and missing or not for the targets.
    """
    use = wish.decided()
    if not onnx.op_nodes:
        if use:
            raise EngineError(
                f"{onnx.path} has no neighborhood attention nodes that a plugin could compute.",
                "Leave --plugin out; was the model exported by dinat-deploy?",
            )
        return None, targets.architectures
    if use is False:
        _need_body(onnx, "--no-plugin forbids the plugin", "Leave --no-plugin out")
        return None, targets.architectures
    library = wish.library or find_library("tensorrt")
    if obstacle is None and library is None:
        obstacle = Obstacle("the plugin library for TensorRT was not found", _CURE)
    covered: list[str] = []
    if obstacle is None and library is not None:
        covered = _covered(library, targets.architectures)
        if len(covered) < len(targets.architectures) and (targets.named or not covered):
            obstacle = _missing_code(library, targets.architectures)
    if obstacle is not None:
        if use:
            raise EngineError(
                f"{obstacle.cause[0].upper()}{obstacle.cause[1:]}.", f"{obstacle.cure}."
            )
        _need_body(onnx, obstacle.cause, obstacle.cure)
        notes.append(
            "Attention is built from the operator's body in standard operators, not from the "
            f"plugin: {obstacle.cause}. {obstacle.cure}."
        )
        return None, targets.architectures
    assert library is not None
    if len(covered) < len(targets.architectures):
        left_out = [entry for entry in targets.architectures if entry not in covered]
        notes.append(
            f"The engine is for compute capability {', '.join(covered)} only; the plugin library "
            f"has no code for {', '.join(left_out)}. `dinat-deploy plugin build "
            f"--arch {','.join(targets.architectures)}` gives it some."
        )
    request = PluginRequest(
        library=library.absolute(),
        operators=list(dict.fromkeys(node.op_type for node in onnx.op_nodes)),
        nodes=[node.name for node in onnx.op_nodes],
        embed=wish.embed,
    )
    return request, covered


def _need_body(onnx: OnnxFile, why: str, cure: str) -> None:
    if onnx.without_body:
        raise EngineError(
            f"{onnx.path} has no body for {', '.join(onnx.without_body)}, and {why}.",
            f"{cure}, or export with --body standard.",
        )


def _covered(library: Path, architectures: Sequence[str]) -> list[str]:
    """Those of the architectures that the library has code for."""
    if not library.is_file():
        raise EngineError(f"There is no plugin library {library}.", f"{_CURE}.")
    info = _info(library)
    if info is None:
        if machine(library) is None:
            raise EngineError(
                f"{library} is no shared library for 64-bit Linux, and a plugin must be one.",
                f"{_CURE}, or leave --plugin-library out.",
            )
        return list(architectures)  # not one of ours; loading it will show what it is
    if info.name != "dinat_tensorrt":
        raise EngineError(
            f"{library} is {info.name}, not the plugin library for TensorRT.",
            "`dinat-deploy plugin info` says where that is.",
        )
    if info.machine != platform.machine():
        raise EngineError(
            f"The plugin library {library} is for {info.machine}, this machine is "
            f"{platform.machine()}.",
            f"{_CURE} on this machine.",
        )
    return [entry for entry in architectures if info.runs_on_gpu(int(entry))]


def _missing_code(library: Path, architectures: Sequence[str]) -> Obstacle:
    info = library_info(library)
    missing = [entry for entry in architectures if not info.runs_on_gpu(int(entry))]
    command = f"`dinat-deploy plugin build --arch {','.join(architectures)}`"
    cause = (
        f"the plugin library {library} has code for {', '.join(info.cuda_code) or 'no GPU'}, and "
        f"the engine is wanted for compute capability {', '.join(missing)}"
    )
    if len(missing) == len(architectures):
        return Obstacle(cause, f"Build the plugin again with {command}")
    return Obstacle(
        f"{cause} too", f"Name fewer with --arch, or build the plugin again with {command}"
    )


def library_version(library: Path) -> str | None:
    """What a plugin library says of its version; None if it is not one of ours."""
    info = _info(library)
    return info.version if info else None


def _info(library: Path) -> LibraryInfo | None:
    try:
        return library_info(library)
    except NativeError:
        return None
