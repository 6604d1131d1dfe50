"""Evaluates in several processes of this machine.

Each process has its own models and takes one batch after the other. A process that dies costs
nothing but time: the batch that it had is given to another.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from dinat_deploy.pipeline.evaluation_batches import BatchResult, Evaluator, Plan
from dinat_deploy.pipeline.evaluation_messages import (
    Deaths,
    Failure,
    Message,
    OnNote,
    OnOpened,
    failure_of,
)

_PATIENCE = 2.0  # seconds that a worker is given to end before it is killed


def count_in_processes(
    plan: Plan, workers: int, on_opened: OnOpened, note: OnNote
) -> Generator[BatchResult]:
    """Count all batches, in the order in which they are done.

    The processes are ended when the iterator is: after the last batch, on an error, or when it is
    closed.

    Args:
        workers: how many processes, at most one for each batch.
        on_opened: called once with what the first worker has loaded.
        note: called when a worker died.

    Raises:
        DinatDeployError: what a worker cannot do, or all of them died.
    """
    crew = [_Worker.start(plan) for _ in range(min(workers, plan.batches))]
    try:
        yield from _run(crew, plan, on_opened, Deaths(note))
    finally:
        for worker in crew:
            worker.end()


@dataclass(eq=False)
class _Worker:
    """A process and the batch that it is at."""

    process: SpawnProcess
    connection: Connection[Any, Any]
    batch: int | None = None

    @classmethod
    def start(cls, plan: Plan) -> _Worker:
        context = multiprocessing.get_context("spawn")
        mine, its = context.Pipe()
        process = context.Process(target=_serve, args=(its, plan), daemon=True)
        with _without_interrupts():
            process.start()
        # Else this process would hold the other end open, and never see the worker end.
        its.close()
        return cls(process, mine)

    def give(self, batch: int) -> None:
        self.batch = batch
        with suppress(OSError):  # it is dead, which is found out when its answer is awaited
            self.connection.send(batch)

    def answer(self) -> Message | None:
        """What it says; None if it is dead."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            return None
        return message

    def epitaph(self) -> str:
        """How it died."""
        self.process.join(_PATIENCE)
        status = self.process.exitcode
        if status is None or status >= 0:
            return f"ended early with status {status}"
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return f"was killed ({name})" if name == "SIGKILL" else f"crashed ({name})"

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let a process that is started here never see Ctrl-C, which reaches all processes of a
    terminal: this one ends the others. It inherits that SIGINT is blocked; here the signal comes
    when it is let through again."""
    if not hasattr(signal, "pthread_sigmask"):  # not a Unix
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(
    crew: Sequence[_Worker], plan: Plan, on_opened: OnOpened, deaths: Deaths
) -> Generator[BatchResult]:
    waiting = deque(range(plan.batches))
    living = list(crew)
    told = False
    done = 0
    while done < plan.batches:
        for worker in living:
            if worker.batch is None and waiting:
                worker.give(waiting.popleft())
        ready = wait([worker.connection for worker in living if worker.batch is not None])
        for worker in [worker for worker in living if worker.connection in ready]:
            message = worker.answer()
            if message is None:
                living.remove(worker)
                assert worker.batch is not None
                deaths.died(worker.batch, worker.epitaph(), len(living))
                waiting.appendleft(worker.batch)
            elif isinstance(message, Failure):
                raise message.error()
            elif isinstance(message, BatchResult):
                worker.batch = None
                done += 1
                yield message
            elif not told:
                told = True
                on_opened(message)


def _serve(connection: Connection[Any, Any], plan: Plan) -> None:
    """What a worker does: load the models, then count the batches that it is told to."""
    try:
        with Evaluator(plan) as evaluator:
            connection.send(evaluator.opened)
            while True:
                connection.send(evaluator.count(connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the other side is gone
    except Exception as error:
        with suppress(OSError):
            connection.send(failure_of(error))
