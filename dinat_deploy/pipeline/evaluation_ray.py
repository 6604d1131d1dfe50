"""Evaluates on a Ray cluster: each actor has the models loaded and takes one batch after the other.

Actors read the models and the data themselves, so that both must lie at the same path on every node
(data in memory are sent). An actor that dies is replaced, and its batch is done again.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from dinat_deploy.errors import DinatDeployError, MissingDependencyError
from dinat_deploy.files import scratch_directory
from dinat_deploy.pipeline.evaluation_batches import BatchResult, Evaluator, Opened, Plan
from dinat_deploy.pipeline.evaluation_messages import (
    Deaths,
    Failure,
    OnNote,
    OnOpened,
    failure_of,
)

LOCAL = "local"
# The smallest that Ray takes; only a plan and counts go through it.
_STORE_BYTES = 80 << 20
# Names of sockets end at 107 characters, and Ray appends 64 and more to this folder's.
_LONGEST_FOLDER = 40
_PATIENCE = 5.0  # seconds in which a cluster must answer


class Actor:
    """What runs in an actor. Errors are returned and not raised: Ray would wrap them."""

    def __init__(self, plan: Plan) -> None:
        self._failure: Failure | None = None
        try:
            self._evaluator = Evaluator(plan)
        except Exception as error:
            self._failure = failure_of(error)

    def count(self, index: int) -> tuple[list[Opened], BatchResult] | Failure:
        """What was loaded, and what was found in a batch."""
        if self._failure is not None:
            return self._failure
        try:
            return self._evaluator.opened, self._evaluator.count(index)
        except Exception as error:
            return failure_of(error)

    def process(self) -> int:
        """The id of the process that it runs in."""
        return os.getpid()


def count_on_ray(
    plan: Plan,
    address: str,
    workers: int,
    on_opened: OnOpened,
    note: OnNote,
    *,
    on_gpu: bool = False,
) -> Generator[BatchResult]:
    """Count all batches, in the order in which they are done.

    Args:
        address: of the cluster, or ``local`` for one on this machine, which is started and ended.
            A connection that this process has already is used, and kept.
        workers: how many actors; 0 is one for every CPU (or GPU) of the cluster.
        on_opened, note: as of
            :func:`dinat_deploy.pipeline.evaluation_workers.count_in_processes`.
        on_gpu: each actor needs a GPU.

    Raises:
        DinatDeployError: there is no cluster, it has no room for an actor, or what an actor says.
        MissingDependencyError: Ray is not installed.
    """
    ray = import_ray()
    with connected(ray, address, workers):
        resources = ray.cluster_resources()
        kind = "GPU" if on_gpu else "CPU"
        room = int(resources.get(kind, 0))
        if room < 1:
            raise DinatDeployError(f"The Ray cluster has no {kind}.", "Add a node that has one.")
        count = min(workers or room, plan.batches)
        if count > room:
            note(f"The Ray cluster has room for {room} of {count} actors.")
            count = room
        # Restarted by us, with the batch that was lost.
        kept = {"num_cpus": 1, "num_gpus": int(on_gpu), "max_restarts": 0, "max_task_retries": 0}
        make = ray.remote(**kept)(Actor).remote
        sent = ray.put(plan)
        yield from _run(ray, lambda: make(sent), count, plan, on_opened, Deaths(note))


def _run(
    ray: Any, make: Any, count: int, plan: Plan, on_opened: OnOpened, deaths: Deaths
) -> Generator[BatchResult]:
    waiting = deque(range(plan.batches))
    idle = [make() for _ in range(count)]
    running: dict[Any, tuple[Any, int]] = {}
    told = False
    try:
        while waiting or running:
            while idle and waiting:
                actor, batch = idle.pop(), waiting.popleft()
                running[actor.count.remote(batch)] = actor, batch
            for answer in ray.wait(list(running), num_returns=1)[0]:
                actor, batch = running.pop(answer)
                try:
                    found = ray.get(answer)
                except ray.exceptions.RayError as error:
                    deaths.died(batch, f"died ({type(error).__name__})", left=1)
                    waiting.appendleft(batch)
                    with suppress(ray.exceptions.RayError):
                        ray.kill(actor)
                    idle.append(make())
                    continue
                if isinstance(found, Failure):
                    raise found.error()
                idle.append(actor)
                opened, result = found
                if not told:
                    told = True
                    on_opened(opened)
                yield result
    finally:
        for actor in [*idle, *(actor for actor, _ in running.values())]:
            with suppress(Exception):
                ray.kill(actor)


@contextmanager
def connected(ray: Any, address: str, workers: int) -> Iterator[None]:
    """Be connected to a cluster; one that is started here ends with the context.

    Args:
        ray: the module.
        address: as of :func:`count_on_ray`.
        workers: CPUs of a cluster that is started; 0 is all of this machine's.

    Raises:
        DinatDeployError: there is no cluster.
    """
    if ray.is_initialized():
        yield
        return
    quiet = {
        "include_dashboard": False,
        "log_to_driver": False,
        "configure_logging": True,
        "logging_level": "error",
    }
    with ExitStack() as held:
        if address == LOCAL:
            # Its logs end with it.
            folder = held.enter_context(scratch_directory())
            place = {"_temp_dir": str(folder)} if len(str(folder)) <= _LONGEST_FOLDER else {}
            local = {"num_cpus": workers or None, "object_store_memory": _STORE_BYTES, **place}
            _connect(ray, {"address": LOCAL, **local, **quiet}, address)
        else:
            del quiet["include_dashboard"]
            _check_listening(address)
            _connect(ray, {"address": address, **quiet}, address)
        held.callback(ray.shutdown)
        yield


def _check_listening(address: str) -> None:
    """Ray would go on trying for minutes to reach a cluster that is not there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PATIENCE):
            pass
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from None


def _connect(ray: Any, options: dict[str, Any], address: str) -> None:
    try:
        ray.init(**options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _no_cluster(address, said) from None


def _no_cluster(address: str, reason: str) -> DinatDeployError:
    return DinatDeployError(
        f"There is no Ray cluster at {address}: {reason.rstrip('.')}.",
        f"Start one with `ray start --head`, or write --ray {LOCAL}.",
    )


def import_ray() -> Any:
    """The module, told to be quiet; raises MissingDependencyError if it is not installed."""
    # Ray reads these when it is loaded. It would else ask whether it may report its use, and draw
    # progress bars of its own.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise MissingDependencyError(
            "Spreading an evaluation over a cluster needs Ray, which is not installed.",
            "pip install 'dinat-deploy[ray]'",
        ) from None
    return ray
