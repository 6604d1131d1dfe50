"""Progress of a builder's nested phases, from its callbacks to the bar."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from dinat_deploy.engine import messages
from dinat_deploy.engine.messages import Channel, Phases, ProgressReceiver
from dinat_deploy.progress import Silent


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    monkeypatch.setattr(messages, "_SECONDS_BETWEEN_SHARES", 0.0)
    return []


def phases(shares: list[tuple[float, str]]) -> Phases:
    return Phases(lambda share, name: shares.append((round(share, 4), name)))


def test_a_nested_phase_is_one_step_of_its_parent(shares: list[tuple[float, str]]) -> None:
    found = phases(shares)
    found.start("engine", None, 4)
    found.step("engine", 0)
    found.start("graph", "engine", 2)
    found.step("graph", 0)
    found.start("nodes", "graph", 10)
    found.step("nodes", 4)
    found.finish("nodes")
    found.step("graph", 1)
    found.finish("graph")
    found.step("engine", 1)
    assert shares == [
        (0.0, "engine"), (0.25, "engine"), (0.25, "graph"), (0.375, "graph"), (0.375, "nodes"),
        (0.4375, "nodes"), (0.5, "graph"), (0.5, "engine"),
    ]  # fmt: skip


def test_the_share_never_falls_and_never_exceeds_one(shares: list[tuple[float, str]]) -> None:
    found = phases(shares)
    found.start("engine", None, 0)  # a phase of no steps
    found.step("engine", 5)
    found.step("unknown", 1)
    found.start("again", "engine", 3)
    found.start("again", "again", 3)  # its own parent
    found.step("again", 1)
    found.finish("unknown")
    values = [share for share, _ in shares]
    assert values == sorted(values)
    assert values[-1] == 1.0


def test_thousands_of_steps_are_few_messages() -> None:
    shares: list[tuple[float, str]] = []
    found = phases(shares)
    found.start("engine", None, 50_000)
    for number in range(50_000):
        found.step("engine", number)
    assert 1 <= len(shares) < 500


def test_lines_from_several_threads_stay_whole() -> None:
    reading, writing = os.pipe()
    channel = Channel(writing)
    text = "x" * 3000
    threads = [
        threading.Thread(
            target=lambda n=number: [channel.send("share", n=n, text=text) for _ in range(50)]
        )
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    with os.fdopen(reading, "rb") as stream:
        received = [json.loads(stream.readline()) for _ in range(200)]
    for thread in threads:
        thread.join()
    os.close(writing)
    assert sorted(message["n"] for message in received) == sorted(list(range(4)) * 50)


class Recorder(Silent):
    def __init__(self) -> None:
        self.events: list[object] = []

    @contextmanager
    def portion(self, name: str) -> Iterator[Callable[[float, str], None]]:
        self.events.append(f"enter {name}")
        yield lambda share, detail: self.events.append((share, detail))
        self.events.append(f"leave {name}")


def test_a_new_stage_ends_the_last() -> None:
    progress = Recorder()
    with ProgressReceiver(progress) as receiver:
        receiver.receive({"kind": "share", "done": 0.1, "phase": "before any stage"})
        receiver.receive({"kind": "stage", "name": "Parsing"})
        receiver.receive({"kind": "stage", "name": "Building"})
        receiver.receive({"kind": "share", "done": 0.5, "phase": "graph"})
        receiver.receive({"kind": "done", "outcome": {}})
    assert progress.events == [
        "enter Parsing", "leave Parsing", "enter Building", (0.5, "graph"), "leave Building",
    ]  # fmt: skip
