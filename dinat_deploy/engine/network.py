"""What all flavours of TensorRT share of a build: parsing, profiles, what became of the nodes.

``trt`` is always the module ``tensorrt`` or ``tensorrt_rtx``, which have the same interface as far
as it is used here.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from dinat_deploy.bundle import TensorSpec
from dinat_deploy.engine.builder import PluginLayer, PluginRequest
from dinat_deploy.engine.messages import Channel, Phases
from dinat_deploy.engine.profiles import Profile
from dinat_deploy.errors import EngineError
from dinat_deploy.session.tensorrt_api import NO_DRIVER, Log, listed, type_name

# The parser logs its errors in pieces, which it also returns whole.
_FROM_PARSER = re.compile(r"^\w+\.(cpp|hpp|h|cc):\d+: ")
# metadata of a layer: "[ONNX Layer: node]", within a function "[ONNX Layer: inner | node (Type)]"
_ORIGIN = re.compile(
    r"\[ONNX Layer: (?P<inner>[^\]|]*?)(?: \| (?P<outer>[^\]]*?) \((?P<type>\w+)\))?\]"
)


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
    """Inputs and outputs of a network; dynamic dimensions are their names, or ``?``."""
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    outputs = [network.get_output(number) for number in range(network.num_outputs)]
    return [_spec(tensor) for tensor in inputs], [_spec(tensor) for tensor in outputs]


def _spec(tensor: Any) -> TensorSpec:
    shape = [
        int(size) if size >= 0 else tensor.get_dimension_name(axis) or "?"
        for axis, size in enumerate(tensor.shape)
    ]
    return TensorSpec(name=tensor.name, dtype=type_name(tensor.dtype), shape=shape)


def survey(
    trt: Any, network: Any, operators: list[str]
) -> tuple[dict[str, int], list[PluginLayer], list[str]]:
    """What a parsed network consists of.

    Args:
        operators: the operators whose nodes to look for among expanded functions.

    Returns:
        Number of layers of every type; the plugin layers; names of the nodes of ``operators`` that
        were expanded to their body.
    """
    kinds: Counter[str] = Counter()
    plugins: list[PluginLayer] = []
    expanded: dict[str, None] = {}
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        kinds[layer.type.name.lower()] += 1
        origin = _ORIGIN.search(layer.metadata or "")
        if layer.type in (trt.LayerType.PLUGIN_V3, trt.LayerType.PLUGIN_V2):
            name = origin["inner"] if origin and not origin["outer"] else layer.name
            plugins.append(PluginLayer(node=name, dtype=type_name(layer.get_output(0).dtype)))
        elif origin and origin["type"] in operators:
            expanded[origin["outer"]] = None
    return dict(kinds.most_common()), plugins, list(expanded)


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
