"""The worker process of a build: ``python -m dinat_deploy.engine.worker``.

Started by a builder with a :class:`BuildTask` on its standard input.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from dinat_deploy.engine import network as shared
from dinat_deploy.engine import timing_cache
from dinat_deploy.engine.builder import BuildOutcome, BuildTask, EngineLayer, PluginRequest
from dinat_deploy.engine.configuration import configure
from dinat_deploy.engine.devices import current_gpu
from dinat_deploy.engine.inspector import inspect_engine
from dinat_deploy.engine.measured import MeasuredTimes
from dinat_deploy.engine.messages import Channel
from dinat_deploy.engine.onnx_file import OP_TYPES, read_onnx
from dinat_deploy.errors import DinatDeployError, EngineError
from dinat_deploy.session import tensorrt_api as api

# Where the parent wants the link to the TensorRT library (see link_bare_name).
LINK_DIRECTORY = "DINAT_DEPLOY_LIBRARY_LINKS"
BARE_NAME = "libtensorrt_rtx.so"


def link_bare_name(directory: Path) -> None:
    """Make the loaded TensorRT-RTX library findable as ``libtensorrt_rtx.so``.

    When the parser meets a plugin node it calls ``dlopen("libtensorrt_rtx.so")`` by that bare name,
    and ends the process when the loader finds none. NVIDIA's wheels hold only
    ``libtensorrt_rtx.so.1``, in a directory that the loader does not search. So the parent puts an
    empty private directory on our LD_LIBRARY_PATH (which the loader reads once, at start), and here
    it gets a link to the very file that this process has loaded, wherever that came from.
    """
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # not Linux
    found = re.search(r"(/[^\n]*/libtensorrt_rtx\.so(?:\.\d+)*)$", maps, re.MULTILINE)
    if found:
        (directory / BARE_NAME).symlink_to(found[1])


def build(task: BuildTask, channel: Channel) -> BuildOutcome:
    """Parse, configure and build; write the plan.

    Raises:
        EngineError: the plugin, the model or the configuration is refused, or the build fails.
    """
    trt = api.import_tensorrt(task.flavor)
    log = api.Log(task.verbose_log)
    logger = api.make_logger(trt, log)
    builder = trt.Builder(logger)
    channel.send("stage", name="Parsing the ONNX file")
    started = time.monotonic()
    if task.plugin is not None:
        if task.flavor == "tensorrt-rtx":
            link_bare_name(Path(os.environ[LINK_DIRECTORY]))
        _load_plugin(task.plugin, builder.get_plugin_registry(), log)
    network = builder.create_network(api.network_flags(trt))
    parser = shared.parse(trt, network, logger, log, task.model)
    survey = shared.survey(trt, network, OP_TYPES)
    if task.plugin is not None:
        shared.check_plugin_layers(task.plugin, survey.plugins)
    shared.mark(network, task.extra_outputs, task.debug_tensors)
    inputs, outputs = shared.tensors(network)
    parsed = time.monotonic()

    channel.send("stage", name="Building the engine")
    config, dla_unsupported = configure(trt, builder, network, task)
    times = None
    if task.timing_cache is not None:
        times = MeasuredTimes(config, timing_cache.load(task.timing_cache))
    hits = times.hits if times is not None else None
    config.progress_monitor = shared.make_monitor(trt, channel)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"{api.TITLES[task.flavor]} could not build the engine." + api.listed(log.errors),
            _cure(task),
        )
    built = time.monotonic()
    channel.send("stage", name="Writing the plan")
    with task.plan.open("wb") as stream:
        stream.write(plan)
    notes: list[str] = []
    if times is not None and task.timing_cache is not None:
        notes += timing_cache.store(task.timing_cache, times.data(), times.merge)
    # The engine is loaded next, which needs their memory; the parser owns the weights.
    del times, config, network, parser, builder
    gpu = current_gpu() if task.flavor == "tensorrt" else None
    return BuildOutcome(
        version=trt.__version__,
        gpu=gpu,
        engine_layers=_engine_layers(trt, task, plan, logger, log, notes) if gpu else None,
        dla_unsupported=dla_unsupported,
        timing_cache_hits=hits,
        inputs=inputs,
        outputs=outputs,
        layers=survey.kinds,
        plugin_layers=survey.plugins,
        body_nodes=_body_nodes(survey, task.model),
        parse_seconds=round(parsed - started, 3),
        build_seconds=round(built - parsed, 3),
        peak_memory=_peak_memory(),
        warnings=[*log.warnings, *notes],
    )


def _load_plugin(request: PluginRequest, registry: Any, log: api.Log) -> None:
    api.load_plugin(
        registry,
        request.library,
        request.operators,
        log,
        namespace=request.namespace,
        version=request.version,
    )


def _body_nodes(survey: shared.Survey, model: Path) -> list[str]:
    """The attention nodes that were replaced by their body."""
    if survey.expanded is not None:
        return survey.expanded
    # The parser says only that there are some: all that are no plugin layers.
    became = {layer.node for layer in survey.plugins}
    return [node.name for node in read_onnx(model).op_nodes if node.name not in became]


def _engine_layers(
    trt: Any, task: BuildTask, plan: Any, logger: Any, log: api.Log, notes: list[str]
) -> list[EngineLayer] | None:
    """What the finished engine consists of; None, with a note, if it cannot be loaded."""
    try:
        runtime = trt.Runtime(logger)
        options, plugin = task.options, task.plugin
        embedded = plugin is not None and plugin.embed
        # It was made here a moment ago.
        runtime.engine_host_code_allowed = embedded or options.version_compatible
        if options.dla_core is not None:
            runtime.DLA_core = options.dla_core
        if plugin is not None and not embedded:
            _load_plugin(plugin, runtime.get_plugin_registry(), log)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is not None:
            return inspect_engine(trt, engine)
        reason = api.listed(log.errors) or " TensorRT does not say why."
    except EngineError as error:
        reason = f" {error.cause}"
    notes.append(f"The layers of the finished engine cannot be listed:{reason}")
    return None


def _peak_memory() -> int | None:
    """Largest resident size of this process in bytes (getrusage would count the parent's too)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _cure(task: BuildTask) -> str:
    options = task.options
    if options.scratch_mib is not None:
        whose = "--workspace" if options.workspace_mib else "--low-memory (--workspace gives more)"
        return f"It may need more than the {options.scratch_mib} MiB of {whose}."
    if task.verbose_log is not None:
        return f"{task.verbose_log} holds everything that it said."
    return "--verbose-log FILE records everything that it says."


def _end_with_the_parent() -> None:
    """The parent holds our input open while it lives; nobody else would stop an orphan."""
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> NoReturn:
    # Libraries print to stdout as they please; it carries messages, so they get stderr instead.
    channel = Channel(os.dup(1))
    os.dup2(2, 1)
    task = BuildTask.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        channel.send("done", outcome=build(task, channel).model_dump(mode="json"))
    except DinatDeployError as error:
        channel.send("failed", cause=error.cause, cure=error.cure)
    except OSError as error:
        reason = f"{error.filename or task.plan}: {error.strerror or error}"
        channel.send("failed", cause=f"Writing failed: {reason}.", cure="Free disk space.")
    # Without the teardown of TensorRT's libraries, which nobody needs any more and which may crash.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
