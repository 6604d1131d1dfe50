"""The protocol, on runs whose times are scripted: nothing here depends on how fast anything is."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from itertools import pairwise

import pytest

from dinat_deploy.measurement.measuring import Measured, MeasuringInterrupted, measure, settle
from dinat_deploy.measurement.records import BenchOptions
from dinat_deploy.session.base import Block, LayerTime, MemoryUse, Timing
from tests.measurement.scripted import ScriptedRun, Scripts


def at_rest() -> bool:
    return True


@pytest.fixture
def scripts() -> Scripts:
    return Scripts()


def test_one_artefact_is_warmed_up_once_and_then_measured_until_its_time_is_over(
    scripts: Scripts,
) -> None:
    (found,) = measure({"a": scripts.maker("a", [1.0])}, BenchOptions())
    assert scripts.log[:2] == [("make", "a"), ("block", "a", 0.2, 200)]
    assert [entry[2:] for entry in scripts.of("block")[1:]] == [(0.25, 250)] * 12
    assert found.seconds == pytest.approx(3.0)
    assert len(found.timings) == 3000
    assert scripts.log[-1] == ("close", "a")
    assert (found.kind, found.notes) == ("cpu", ["note of a"])
    assert found.memory == MemoryUse(weights=1000, activations=200, inputs_outputs=30)


def test_a_slow_artefact_runs_on_until_it_has_its_iterations(scripts: Scripts) -> None:
    (found,) = measure({"slow": scripts.maker("slow", [4000.0])}, BenchOptions(iterations=7))
    assert len(found.timings) == 7


def test_without_a_duration_the_iterations_decide(scripts: Scripts) -> None:
    options = BenchOptions(duration=0, iterations=3, block_ms=0.001)
    (found,) = measure({"a": scripts.maker("a", [1.0])}, options)
    assert len(found.timings) == 3


def test_several_have_one_block_in_every_round_and_all_get_their_time(scripts: Scripts) -> None:
    makers = {name: scripts.maker(name, [1.0 + index]) for index, name in enumerate("abc")}
    found = measure(makers, BenchOptions(), rest=at_rest)
    assert [entry.name for entry in found] == ["a", "b", "c"]
    assert {len(entry.blocks) for entry in found} == {12}
    assert all(entry.seconds >= 3.0 for entry in found)
    order = [entry[1] for entry in scripts.of("block") if entry[2] == 0.25]
    rounds = [order[start : start + 3] for start in range(0, len(order), 3)]
    assert all(Counter(names) == Counter("abc") for names in rounds)
    # Not always the same one first, last, or after the same other one.
    assert {names[0] for names in rounds} == {names[2] for names in rounds} == set("abc")


def test_the_order_follows_the_seed(scripts: Scripts) -> None:
    orders = []
    for seed in (1, 1, 2):
        each = Scripts()
        makers = {name: each.maker(name, [5.0]) for name in "abcd"}
        measure(makers, BenchOptions(seed=seed), rest=at_rest)
        orders.append([entry[1] for entry in each.of("block")])
    assert orders[0] == orders[1] != orders[2]


def test_what_runs_after_another_artefact_is_led_in_without_being_measured(
    scripts: Scripts,
) -> None:
    """A block's first inferences find caches that another one left."""
    makers = {name: scripts.maker(name, [2.0]) for name in "ab"}
    found = measure(makers, BenchOptions(), rest=at_rest)
    after_warm_up = scripts.of("block")[2:]
    for lead_in, block in zip(after_warm_up[::2], after_warm_up[1::2], strict=True):
        assert lead_in[1] == block[1]
        assert lead_in[2] == pytest.approx(0.05)
        assert block[2] == pytest.approx(0.25)
    assert sum(int(str(entry[3])) for entry in after_warm_up[1::2]) == sum(
        len(entry.timings) for entry in found
    )


def test_the_lead_in_is_spared_where_one_inference_takes_longer_than_a_block(
    scripts: Scripts,
) -> None:
    makers = {"quick": scripts.maker("quick", [2.0]), "slow": scripts.maker("slow", [900.0])}
    measure(makers, BenchOptions(), rest=at_rest)
    slow = [entry for entry in scripts.of("block") if entry[1] == "slow"]
    assert len(slow) == 1 + 12


def test_a_short_duration_still_gives_rounds_enough_to_compare(scripts: Scripts) -> None:
    makers = {name: scripts.maker(name, [1.0]) for name in "ab"}
    found = measure(makers, BenchOptions(duration=0.4), rest=at_rest)
    assert [len(entry.blocks) for entry in found] == [8, 8]


def test_blocks_that_last_too_long_do_not_cost_the_comparison_its_rounds(
    scripts: Scripts,
) -> None:
    makers = {name: scripts.maker(name, [2000.0]) for name in "ab"}
    found = measure(makers, BenchOptions(iterations=6), rest=at_rest)
    assert [len(entry.blocks) for entry in found] == [6, 6]
    # Unless fewer runs than that are asked for.
    found = measure(makers, BenchOptions(iterations=2), rest=at_rest)
    assert [len(entry.blocks) for entry in found] == [2, 2]


def test_the_slow_one_decides_how_many_rounds_there_are(scripts: Scripts) -> None:
    makers = {"quick": scripts.maker("quick", [1.0]), "slow": scripts.maker("slow", [600.0])}
    quick, slow = measure(makers, BenchOptions(iterations=30), rest=at_rest)
    assert len(slow.timings) == 30
    assert len(quick.blocks) == len(slow.blocks) == 30


def test_drift_of_the_machine_falls_on_all_alike(scripts: Scripts) -> None:
    """Both slow down to double over the measurement: paired, the second stays 1.5 times."""
    ramp = [1.0 + step / 200 for step in range(300)]
    makers = {
        "a": scripts.maker("a", [10 * factor for factor in ramp]),
        "b": scripts.maker("b", [15 * factor for factor in ramp]),
    }
    first, second = measure(makers, BenchOptions(duration=2), rest=at_rest)
    ratios = [b / a for a, b in zip(first.times(1), second.times(1), strict=True)]
    assert min(ratios) > 1.2
    assert max(first.times(1)) > 1.5 * min(first.times(1))


def test_one_alive_makes_each_block_anew_and_frees_it_before_the_next(scripts: Scripts) -> None:
    makers = {name: scripts.maker(name, [1.0]) for name in "ab"}
    found = measure(makers, BenchOptions(one_alive=True, layers=True), rest=at_rest)
    alive = 0
    for entry in scripts.of("make", "close"):
        alive += 1 if entry[0] == "make" else -1
        assert alive in (0, 1)
    assert all(run.closed for run in scripts.runs)
    # Every load is warmed up in full: nothing of the one before is left.
    blocks = [entry[2] for entry in scripts.of("block")]
    assert blocks == [0.2, 0.25] * 24
    assert [len(entry.blocks) for entry in found] == [12, 12]
    assert found[0].notes.count("note of a") == 1


def test_a_single_artefact_stays_loaded_with_one_alive(scripts: Scripts) -> None:
    measure({"a": scripts.maker("a", [1.0])}, BenchOptions(one_alive=True))
    assert len(scripts.of("make")) == 1


def test_layers_are_profiled_after_the_measurement(scripts: Scripts) -> None:
    layers = [LayerTime("na", "PLUGIN_V3", 0.5, True)]
    makers = {
        "a": scripts.maker("a", [1.0], layers=layers),
        "b": scripts.maker("b", [1.0]),
    }
    first, second = measure(makers, BenchOptions(layers=True, iterations=25), rest=at_rest)
    assert first.layers == layers
    assert scripts.of("profile") == [("profile", "a", 25), ("profile", "b", 25)]
    last_block = max(index for index, entry in enumerate(scripts.log) if entry[0] == "block")
    assert scripts.log.index(("profile", "a", 25)) > last_block
    assert second.layers == []
    assert second.notes == ["note of b", "b tells no times of layers."]


def test_without_layers_nothing_is_profiled(scripts: Scripts) -> None:
    measure({"a": scripts.maker("a", [1.0])}, BenchOptions())
    assert not scripts.of("profile")


def test_progress_rises_to_its_end(scripts: Scripts) -> None:
    told: list[tuple[float, str]] = []
    makers = {name: scripts.maker(name, [1.0]) for name in "ab"}
    measure(makers, BenchOptions(), lambda *news: told.append(news), rest=at_rest)
    shares = [share for share, _ in told]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert all(before <= after for before, after in pairwise(shares))
    assert told[0][1] == "warming up a"
    assert any(text.startswith("round 3, ") for _, text in told)


def test_an_interrupt_keeps_the_complete_rounds(scripts: Scripts) -> None:
    makers = {
        "a": scripts.maker("a", [1.0]),
        "b": scripts.maker("b", [2.0], interrupt_at=1 + 2 * 4),  # after 4 rounds
    }
    with pytest.raises(MeasuringInterrupted) as stopped:
        measure(makers, BenchOptions(), rest=at_rest)
    assert [len(entry.blocks) for entry in stopped.value.measured] == [4, 4]
    assert all(run.closed for run in scripts.runs)


def test_an_interrupt_before_the_first_round_is_over_is_nothing_but_that(
    scripts: Scripts,
) -> None:
    makers = {"a": scripts.maker("a", [1.0]), "b": scripts.maker("b", [1.0], interrupt_at=0)}
    with pytest.raises(KeyboardInterrupt) as stopped:
        measure(makers, BenchOptions(), rest=at_rest)
    assert not isinstance(stopped.value, MeasuringInterrupted)
    assert all(run.closed for run in scripts.runs)


def test_what_cannot_be_made_frees_what_was(scripts: Scripts) -> None:
    def broken() -> ScriptedRun:
        raise MemoryError

    with pytest.raises(MemoryError):
        measure({"a": scripts.maker("a", [1.0]), "b": broken}, BenchOptions(), rest=at_rest)
    assert [run.closed for run in scripts.runs] == [True]


def test_threads_that_do_not_rest_are_blamed_on_the_one_that_left_them(scripts: Scripts) -> None:
    rested: list[bool] = []

    def rest() -> bool:
        """Busy for good once b has run."""
        blocks = [entry[1] for entry in scripts.of("block") if entry[2] == 0.25]
        rested.append(not any(name == "b" for name in blocks))
        return rested[-1]

    makers = {name: scripts.maker(name, [1.0]) for name in "abc"}
    found = measure(makers, BenchOptions(), rest=rest)
    assert [entry.name for entry in found if entry.restless] == ["b"]


def test_alone_there_is_nobody_to_wait_for(scripts: Scripts) -> None:
    def never() -> bool:
        raise AssertionError

    measure({"a": scripts.maker("a", [1.0])}, BenchOptions(), rest=never)


def test_idle_time_is_slept_after_every_block(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("dinat_deploy.measurement.measuring.time.sleep", slept.append)
    measure({"a": scripts.maker("a", [1.0])}, BenchOptions(idle_time=40))
    assert slept == [0.04] * 12


def test_the_garbage_collector_stays_out_of_measured_blocks() -> None:
    collecting: list[bool] = []

    class Watching(ScriptedRun):
        def block(self, seconds: float, least: int) -> Block:
            if seconds == 0.25:
                collecting.append(gc.isenabled())
            return super().block(seconds, least)

    measure({"a": lambda: Watching("a", iter(lambda: 1.0, 0), [])}, BenchOptions())
    assert collecting == [False] * 12
    assert gc.isenabled()


def test_with_streams_a_block_counts_by_its_wall_time() -> None:
    """Eight runs that overlap fully: each waits for all others."""
    block = Block([Timing(8.0, 8.0)] * 8, 0.008)
    found = Measured("a", blocks=[block])
    assert found.times(streams=8) == [pytest.approx(1.0)]
    assert found.times(streams=1) == [8.0]


def test_settling_waits_for_threads_that_still_compute() -> None:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        # Under other load a slice may pass in which the thread does not get to run.
        assert any(not settle(limit=0.1) for _ in range(50))
    finally:
        stop.set()
        thread.join()
    assert settle(limit=10.0)


def test_settling_takes_little_time_where_nothing_runs() -> None:
    started = time.process_time()
    assert settle(limit=10.0)
    assert time.process_time() - started < 0.05
