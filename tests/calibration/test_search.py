"""The search for what to leave out, on models of noise; units, their order, files of patterns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinat_deploy.calibration.patterns import exactly, read_patterns
from dinat_deploy.calibration.search import search
from dinat_deploy.calibration.sensitivity import (
    LARGEST_SQNR,
    Noise,
    Unit,
    by_harm,
    group,
    group_of,
    sqnr_db,
    total,
)
from dinat_deploy.errors import ConfigError


def units(noise: Sequence[int], macs: Sequence[int]) -> tuple[list[Unit], dict[str, float]]:
    """Units in the order of the search, and the noise of each."""
    found = [Unit(f"u{i}", (f"u{i}/MatMul",), count) for i, count in enumerate(macs)]
    of = {unit.name: float(energy) for unit, energy in zip(found, noise, strict=False)}
    return by_harm(found, of), of


models = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 50)), min_size=1, max_size=12).map(
    lambda pairs: units(*zip(*pairs, strict=True))
)


@given(models, st.integers(0, 3000))
def test_additive_noise_is_brought_below_the_budget_and_nothing_can_be_put_back(
    model: tuple[list[Unit], dict[str, float]], budget: int
) -> None:
    ordered, noise = model

    def measure(quantized: Sequence[Unit]) -> float:
        return sum(noise[unit.name] for unit in quantized)

    found = search(ordered, measure, lambda energy: energy <= budget)

    kept = [unit for unit in ordered if unit not in found.excluded]
    assert measure(kept) <= budget
    assert found.measured == (measure(kept) if kept else None)
    for unit in found.excluded:
        assert measure([*kept, unit]) > budget
    if measure(ordered) <= budget:
        assert found.excluded == []
        assert len(found.steps) == 1


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.tuples(st.just(n), st.binary(min_size=1 << n, max_size=1 << n))
    )
)
def test_any_measure_at_all_ends_within_the_budget_and_minimal(case: tuple[int, bytes]) -> None:
    """A metric of few images jumps up and down: every set of units has some loss of its own."""
    count, losses = case
    ordered, _ = units([1] * count, range(1, count + 1))
    numbers = {unit.name: number for number, unit in enumerate(ordered)}
    measured = []

    def measure(quantized: Sequence[Unit]) -> int:
        index = sum(1 << numbers[unit.name] for unit in quantized)
        measured.append(index)
        return losses[index]

    found = search(ordered, measure, lambda loss: loss <= 100)

    assert len(measured) == len(set(measured)), "a set is measured once"
    assert [step.within for step in found.steps] == [losses[i] <= 100 for i in measured]
    kept = [unit for unit in ordered if unit not in found.excluded]
    assert not kept or measure(kept) <= 100
    for unit in found.excluded:
        assert measure([*kept, unit]) > 100


def test_one_bad_unit_of_many_takes_two_measurements() -> None:
    ordered, noise = units([1000, *[1] * 99], [10] * 100)
    found = search(ordered, lambda some: sum(noise[u.name] for u in some), lambda n: n < 200)
    assert [unit.name for unit in found.excluded] == ["u0"]
    assert [step.action for step in found.steps] == [
        "quantize everything", "leave out the most harmful",
    ]  # fmt: skip


def test_few_measurements_find_the_smallest_number_of_units() -> None:
    ordered, noise = units([100] * 37 + [1] * 163, [10] * 200)
    found = search(ordered, lambda some: sum(noise[u.name] for u in some), lambda n: n < 200)
    assert len(found.excluded) == 37
    bisection = [step for step in found.steps if "put" not in step.action]
    assert len(bisection) <= 2 * math.ceil(math.log2(37)) + 1


def test_large_units_are_put_back_first() -> None:
    """The order is by noise per work: the small unit goes first, though leaving out the large one
    would have been enough; so the small one comes back."""
    ordered, noise = units([30, 60], [1, 20])
    assert [unit.name for unit in ordered] == ["u0", "u1"]
    found = search(ordered, lambda some: sum(noise[u.name] for u in some), lambda n: n <= 40)
    assert [unit.name for unit in found.excluded] == ["u1"]
    heard = [step.action for step in found.steps]
    assert heard == ["quantize everything", "leave out the most harmful", "put u0 back"]


def test_harm_is_noise_per_work() -> None:
    some = [Unit("a", (), 1000), Unit("b", (), 100), Unit("c", (), 0), Unit("d", (), 0)]
    noise = {"a": 5.0, "b": 4.0, "c": 0.06, "d": 0.002}
    # A node without products is not for free: its unit of work is a thousandth of all.
    assert [unit.name for unit in by_harm(some, noise)] == ["c", "b", "a", "d"]
    assert by_harm(some, noise | {"a": None})[0].name == "a"
    assert [unit.name for unit in by_harm(some[2:], noise)] == ["c", "d"]


@pytest.mark.parametrize(
    ("node", "block", "level", "kind"),
    [
        ("levels.0.blocks.1.attn.qkv/MatMul", "levels.0.blocks.1", "levels.0", "qkv"),
        ("levels.0.blocks.10/Add_1", "levels.0.blocks.10", "levels.0", "add"),
        ("levels.2.blocks.3.mlp/Gelu", "levels.2.blocks.3", "levels.2", "mlp"),
        ("levels.0.downsample.reduction/Conv", "levels.0.downsample", "levels.0", "conv"),
        ("patch_embed.proj.0/Conv", "patch_embed", "patch_embed", "conv"),
        ("backbone.levels.1.blocks.0.mlp.fc1/MatMul", "backbone.levels.1.blocks.0", "backbone.levels.1", "fc1"),
        ("decoder.fpn.2.conv/Conv", "decoder.fpn.2", "decoder", "conv"),
        ("/layers/3/attn/proj/MatMul", "/layers/3", "layers", "proj"),
        ("head/Gemm", "head", "head", "head"),
        ("ReduceMean", "ReduceMean", "ReduceMean", "ReduceMean"),
    ],
)  # fmt: skip
def test_nodes_belong_to_blocks_levels_and_kinds(
    node: str, block: str, level: str, kind: str
) -> None:
    assert group_of(node, "site") == node
    assert [group_of(node, by) for by in ("block", "level", "kind")] == [block, level, kind]


def test_units_keep_the_order_of_the_graph_and_add_up_their_work() -> None:
    sites = [f"levels.{i}.blocks.0.{m}/MatMul" for i in (0, 1) for m in ("attn.qkv", "mlp.fc1")]
    macs = {site: 10 + number for number, site in enumerate(sites)}
    found = group(sites, macs, "block")
    assert [(unit.name, unit.macs) for unit in found] == [
        ("levels.0.blocks.0", 21), ("levels.1.blocks.0", 25),
    ]  # fmt: skip
    assert [unit.name for unit in group(sites, {}, "kind")] == ["qkv", "fc1"]
    assert sum((unit.sites for unit in found), ()) == tuple(sites)


def test_noise_is_a_share_of_each_output() -> None:
    noise = Noise()
    noise.add("small", 1.0, 0.1)
    noise.add("large", 1e6, 1e3)
    noise.add("small", 3.0, 0.1)
    assert noise.share == pytest.approx((0.2 / 4 + 1e-3) / 2)
    assert sqnr_db(0.01) == pytest.approx(20)
    assert sqnr_db(0.0) == LARGEST_SQNR
    for broken in ((1.0, math.inf), (math.inf, math.inf), (0.0, 1.0)):
        noise = Noise()
        noise.add("output", *broken)
        assert noise.share is None
        assert sqnr_db(noise.share) is None
    assert total([0.1, 0.2]) == pytest.approx(0.3)
    assert total([0.1, None]) is None


def test_independent_errors_add_up_in_energy(rng: np.random.Generator) -> None:
    """The rule that the order of the search rests on."""
    signal = rng.standard_normal(100_000)
    errors = [0.1 * rng.standard_normal(100_000), 0.03 * rng.standard_normal(100_000)]
    shares = [float((e @ e) / (signal @ signal)) for e in errors]
    both = sum(errors)
    assert total(shares) == pytest.approx(float((both @ both) / (signal @ signal)), rel=0.01)


def test_files_of_patterns_have_comments(tmp_path: Path) -> None:
    path = tmp_path / "exclude.txt"
    path.write_text("# why\nlevels.0.*\n\n  head/Gemm   # 3 points\n#levels.1.*\na#b\n")
    assert read_patterns(path) == ["levels.0.*", "head/Gemm", "a#b"]
    path.write_text("# nothing\n")
    assert read_patterns(path) == []
    with pytest.raises(ConfigError, match="none.txt cannot be read: No such file"):
        read_patterns(tmp_path / "none.txt")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        read_patterns(path)


@given(
    st.text(st.sampled_from("ab*?[]!."), min_size=1, max_size=8), st.text("ab*?[]!.", max_size=8)
)
def test_an_exact_pattern_matches_its_name_alone(name: str, other: str) -> None:
    from fnmatch import fnmatchcase

    assert fnmatchcase(name, exactly(name))
    assert fnmatchcase(other, exactly(name)) == (other == name)
