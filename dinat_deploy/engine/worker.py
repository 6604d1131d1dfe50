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
from dinat_deploy.engine.builder import BuildOutcome, BuildTask
from dinat_deploy.engine.messages import Channel
from dinat_deploy.engine.onnx_file import OP_TYPES
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
        link_bare_name(Path(os.environ[LINK_DIRECTORY]))
        api.load_plugin(
            builder.get_plugin_registry(),
            task.plugin.library,
            task.plugin.operators,
            log,
            namespace=task.plugin.namespace,
            version=task.plugin.version,
        )
    # TensorRT-RTX has no other networks than strongly typed ones; older releases want to be told.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = shared.parse(trt, network, logger, log, task.model)
    layers, plugin_layers, body_nodes = shared.survey(trt, network, list(OP_TYPES))
    if task.plugin is not None:
        shared.check_plugin_layers(task.plugin, plugin_layers)
    inputs, outputs = shared.tensors(network)
    parsed = time.monotonic()

    channel.send("stage", name="Building the engine")
    config = configure(trt, builder, task)
    config.progress_monitor = shared.make_monitor(trt, channel)
    plan = builder.build_serialized_network(network, config)
    del parser
    if plan is None:
        raise EngineError(
            "TensorRT-RTX could not build the engine." + api.listed(log.errors),
            "--verbose-log FILE records everything that it says.",
        )
    channel.send("stage", name="Writing the plan")
    with task.plan.open("wb") as stream:
        stream.write(plan)
    return BuildOutcome(
        version=trt.__version__,
        inputs=inputs,
        outputs=outputs,
        layers=layers,
        plugin_layers=plugin_layers,
        body_nodes=body_nodes,
        parse_seconds=round(parsed - started, 3),
        build_seconds=round(time.monotonic() - parsed, 3),
        peak_memory=_peak_memory(),
        warnings=list(log.warnings),
    )


def configure(trt: Any, builder: Any, task: BuildTask) -> Any:
    """The builder's configuration for a task."""
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(task.architectures)
    for number, architecture in enumerate(task.architectures):
        capability = getattr(trt.ComputeCapability, f"SM{architecture}", None)
        if capability is None:
            raise EngineError(
                f"TensorRT-RTX {trt.__version__} cannot build for compute capability "
                f"{architecture}.",
                "Upgrade it with `pip install -U tensorrt-rtx`, or leave it out of --arch.",
            )
        config.set_compute_capability(capability, number)
    if task.options.optimization_level is not None:
        config.builder_optimization_level = task.options.optimization_level
    if task.options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, task.options.workspace_mib << 20)
    if task.plugin is not None and task.plugin.embed:
        config.plugins_to_serialize = [str(task.plugin.library)]
    shared.add_profiles(builder, config, task.profiles)
    return config


def _peak_memory() -> int | None:
    """Largest resident size of this process in bytes (getrusage would count the parent's too)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


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
