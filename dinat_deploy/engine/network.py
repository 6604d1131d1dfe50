"""What all flavours of TensorRT share of a build: parsing, profiles, what became of the nodes.

``trt`` is always the module ``tensorrt`` or ``tensorrt_rtx``, which have the same interface as far
as it is used here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.engine.builder import PluginLayer, PluginRequest
from dinat_deploy.engine.messages import Channel, Phases
from dinat_deploy.engine.profiles import Profile
from dinat_deploy.errors import EngineError
from dinat_deploy.session.tensorrt_api import NO_DRIVER, Log, listed, origins, type_name

# The parser logs its errors in pieces, which it also returns whole.
_FROM_PARSER = re.compile(r"^\w+\.(cpp|hpp|h|cc):\d+: ")


def make_monitor(trt: Any, channel: Channel) -> Any:
    """A progress monitor for TensorRT that writes to the channel."""
    phases = Phases(lambda done, phase: channel.send("share", done=done, phase=phase))

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            phases.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            phases.step(name, step)
            return True  # go on

        def phase_finish(self, name: str) -> None:
            phases.finish(name)

    return Monitor()


def parse(trt: Any, network: Any, logger: Any, log: Log, model: Path) -> Any:
    """Parse an ONNX file into a network, by its path: weights may lie in files beside it.

    Returns:
        The parser, which owns the weights: it must live until the engine is built.

    Raises:
        EngineError: with all that the parser and the plugin object to, by node.
    """
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(model)):
        return parser
    found = [parser.get_error(number) for number in range(parser.num_errors)]
    described = [_describe(error) for error in found]
    said = [
        text
        for text in dict.fromkeys(log.errors)
        if not (_FROM_PARSER.match(text) or NO_DRIVER.fullmatch(text))
        and not any(error.desc() in text or text.strip() in error.desc() for error in found)
    ]
    raise EngineError(
        f"TensorRT's parser refuses {model}.{listed(described)}"
        + (f"\nThe plugin says:{listed(said)}" if said else ""),
        "" if said else "`dinat-deploy inspect` shows the operators of the file.",
    )


def _describe(error: Any) -> str:
    reason = error.desc().strip()
    where = error.node_name() or (f"node {error.node()}" if error.node() >= 0 else "the file")
    operator = f" ({error.node_operator()})" if error.node_operator() else ""
    within = [entry for entry in error.local_function_stack() if entry]
    return f"{where}{operator}: {reason}" + (f", within {' > '.join(within)}" if within else "")


def add_profiles(builder: Any, config: Any, profiles: list[Profile]) -> None:
    """Give the configuration its optimisation profiles."""
    for number, shapes in enumerate(profiles):
        profile = builder.create_optimization_profile()
        for name, entry in shapes.items():
            profile.set_shape(name, entry.min, entry.opt, entry.max)
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(f"TensorRT refuses profile {number}: {shapes}.", "Change --profile.")


def tensors(network: Any) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Inputs and outputs of a network; dynamic dimensions are ``?``, the ONNX file has names."""
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    outputs = [network.get_output(number) for number in range(network.num_outputs)]
    return [_spec(tensor) for tensor in inputs], [_spec(tensor) for tensor in outputs]


def _spec(tensor: Any) -> TensorSpec:
    shape = [int(size) if size >= 0 else "?" for size in tensor.shape]
    return TensorSpec(name=tensor.name, dtype=type_name(tensor.dtype), shape=shape)


@dataclass(frozen=True)
class Survey:
    """What a parsed network consists of.

    Attributes:
        kinds: number of layers of every type.
        plugins: the plugin layers.
        expanded: nodes that became their body; None where the parser says that some did, but not
            which (until 10.6).
    """

    kinds: dict[str, int]
    plugins: list[PluginLayer]
    expanded: list[str] | None


def survey(trt: Any, network: Any, operators: Collection[str]) -> Survey:
    """Look at all layers of a parsed network.

    Args:
        operators: the operators whose nodes to look for among expanded functions.
    """
    kinds: Counter[str] = Counter()
    plugins: list[PluginLayer] = []
    expanded: dict[str | None, None] = {}
    for layer in layers_of(network):
        kinds[layer.type.name.lower()] += 1
        found = origins(layer.metadata)
        origin = found[0] if found else None
        if layer.type in (trt.LayerType.PLUGIN_V3, trt.LayerType.PLUGIN_V2):
            named = origin is not None and origin.function is None and origin.node
            dtype = type_name(layer.get_output(0).dtype)
            plugins.append(PluginLayer(node=named or layer.name, dtype=dtype))
        elif origin is not None and origin.function in operators:
            expanded[origin.node] = None
    names = None if None in expanded else [name for name in expanded if name is not None]
    return Survey(dict(kinds.most_common()), plugins, names)


def layers_of(network: Any) -> Iterator[Any]:
    """The layers of a network."""
    for number in range(network.num_layers):
        yield network.get_layer(number)


def mark(network: Any, extra_outputs: Sequence[str], debug_tensors: Sequence[str]) -> None:
    """Let tensors out of the engine: as further outputs, or for a debug listener.

    Args:
        extra_outputs: names; one that is an output already stays what it is.

    Raises:
        EngineError: no layer computes a tensor of that name, or TensorRT cannot mark it.
    """
    if not extra_outputs and not debug_tensors:
        return
    tensors: dict[str, Any] = {}
    for layer in layers_of(network):
        for number in range(layer.num_outputs):
            tensor = layer.get_output(number)
            if tensor is not None and tensor.name not in tensors:
                tensors[tensor.name] = tensor
    asked = dict.fromkeys([*extra_outputs, *debug_tensors])
    missing = [name for name in asked if name not in tensors]
    if missing:
        raise EngineError(
            f"{len(missing)} of {len(asked)} tensors to let out are computed by no layer of the "
            f"network:{listed(missing)}",
            "Name outputs of nodes of the ONNX file; those of nodes that do nothing (Identity) "
            "have no layer.",
        )
    for name in dict.fromkeys(extra_outputs):
        if not tensors[name].is_network_output:
            network.mark_output(tensors[name])
    refused = [
        name for name in dict.fromkeys(debug_tensors) if not network.mark_debug(tensors[name])
    ]
    if refused:
        raise EngineError(
            f"TensorRT cannot mark these as debug tensors:{listed(refused)}",
            "Let them out as further outputs instead.",
        )


def check_plugin_layers(request: PluginRequest, layers: list[PluginLayer]) -> None:
    """Raise :class:`EngineError` unless every attention node became a plugin layer."""
    became = {layer.node for layer in layers}
    # A node without a name is only counted: the parser makes up a name for it.
    missing = [node for node in request.nodes if node and node not in became]
    count = len(request.nodes)
    if missing or len(layers) < count:
        made = min(len(layers), count - len(missing))
        raise EngineError(
            f"{made} of {count} attention nodes became layers of the plugin {request.library}; "
            f"these did not:{listed(missing or ['(without a name)'])}",
            "Nodes need the attributes plugin_namespace and plugin_version: export the model "
            "again, or build from the operator's body with --no-plugin.",
        )
