"""The ablation: which models it trains, what it says of them, and the file that it goes on from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from dinat_deploy.choosing import ablation_effects
from dinat_deploy.choosing.ablation_effects import cells, effects
from dinat_deploy.choosing.ablation_page import to_html
from dinat_deploy.choosing.ablation_records import (
    AblationFile,
    Recipe,
    Training,
    read_ablation,
)
from dinat_deploy.choosing.ablation_task import (
    JUDGE,
    KERNEL_SIZES,
    LEARN,
    ORDERS,
    architecture,
    is_possible,
    pictures,
)
from dinat_deploy.choosing.ablation_training import predict, train
from dinat_deploy.errors import ConfigError, OutputError
from tests.conftest import TINY
from tests.measurement.browser import Outline, open_page

SCANS = 100
RECIPE = Recipe(epochs=1, learned=64, judged=SCANS, torch="2")


def training(order: str, kernel: int, seed: int, wrong: list[int]) -> Training:
    return Training(
        order=order, kernel_size=kernel, seed=seed, config=architecture(order, kernel),
        wrong=wrong, seconds=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("kernel", KERNEL_SIZES)
def test_every_window_and_every_dilated_window_of_the_first_map_leaves_something_out(
    kernel: int,
) -> None:
    assert is_possible(kernel)
    largest = 14 // kernel
    assert largest >= 2
    expected = {
        "NA-NA": (1, 1), "NA-DiNA": (1, largest), "DiNA-NA": (largest, 1),
        "DiNA-DiNA": (largest, largest),
    }  # fmt: skip
    assert list(expected) == list(ORDERS)
    for order, dilations in expected.items():
        config = architecture(order, kernel)
        assert config.feature_sizes()[0] == (14, 14)
        assert config.dilations[0] == dilations
        for level, size in enumerate(config.feature_sizes()):
            assert max(config.dilations[level]) * kernel <= min(size)


def test_kernel_sizes_for_which_that_is_not_so_are_impossible() -> None:
    assert [k for k in range(12) if is_possible(k)] == [3, 5, 7]


def test_few_scans_are_learned_from_and_many_are_judged() -> None:
    learn, judge = pictures(LEARN), pictures(JUDGE)
    assert learn.images.shape == (360, 1, 56, 56)
    assert judge.images.shape == (1437, 1, 56, 56)
    assert len(judge.first(100).classes) == 100


def test_a_seed_gives_one_model_and_leaves_the_callers_random_numbers_alone() -> None:
    images = torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(64) % 10
    before, told = torch.get_rng_state(), []
    first = train(TINY, images, classes, epochs=1, seed=3, batch=32, report=told.append)
    again = train(TINY, images, classes, epochs=1, seed=3, batch=32)
    other = train(TINY, images, classes, epochs=1, seed=4, batch=32)
    assert told == [1]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    assert not all(
        torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)
    )
    assert predict(first, images, batch=24).tolist() == first(images).argmax(1).tolist()


def test_quantiles_are_those_of_students_t() -> None:
    for number, quantile in enumerate(ablation_effects._T, start=1):
        assert quantile == pytest.approx(stats.t.ppf(0.975, number), abs=5e-4)


def test_accuracies_have_their_mean_and_spread() -> None:
    found = cells(
        [training("NA-NA", 3, s, list(range(w))) for s, w in enumerate((10, 12, 17))], SCANS
    )
    (cell,) = found
    assert cell.accuracies == pytest.approx((90, 88, 83))
    assert cell.mean == pytest.approx(87)
    assert cell.spread == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert cells([training("NA-NA", 3, 0, [])], SCANS)[0].spread is None


def test_a_difference_has_the_interval_of_seeds_and_scans() -> None:
    base, other = [[0, 1, 2, 3], [2, 3, 4], [5, 6]], [[0], [2, 3], []]
    trainings = [training("NA-NA", 3, seed, wrong) for seed, wrong in enumerate(base)]
    trainings += [training("DiNA-NA", 3, seed, wrong) for seed, wrong in enumerate(other)]
    (effect,) = effects(trainings, SCANS)
    assert (effect.factor, effect.value, effect.base) == ("order", "DiNA-NA", "NA-NA")
    assert effect.difference == pytest.approx(100 * (3 + 1 + 2) / 3 / SCANS)
    of_seeds = np.var([3, 1, 2], ddof=1) / 3
    scans = np.zeros(SCANS)
    for wrong, sign in ((base, 1), (other, -1)):
        for each in wrong:
            scans[each] += sign / 3
    reach = 4.303 * math.sqrt(of_seeds + 1e4 * scans.var(ddof=1) / SCANS)
    assert effect.high is not None and effect.low is not None
    assert effect.high - effect.difference == pytest.approx(reach, rel=1e-3)
    assert effect.difference - effect.low == pytest.approx(reach, rel=1e-3)
    assert effect.verdict == "within the noise"


def test_what_is_not_asked_about_is_averaged_over() -> None:
    wrong = {("NA-NA", 3): 30, ("NA-DiNA", 3): 20, ("NA-NA", 7): 10, ("NA-DiNA", 7): 4}
    trainings = [
        training(order, kernel, seed, list(range(count)))
        for (order, kernel), count in wrong.items()
        for seed in range(2)
    ]
    found = {(e.factor, e.value): e for e in effects(trainings, SCANS)}
    assert found["order", "NA-DiNA"].difference == pytest.approx((10 + 6) / 2)
    assert found["kernel size", "3"].difference == pytest.approx(-((30 - 10) + (20 - 4)) / 2)
    assert found["kernel size", "3"].name == "kernel size 3 against 7"
    assert len(found) == 2


@pytest.mark.parametrize("turn", [1, -1])
def test_the_base_does_not_depend_on_the_order_in_which_models_are_named(turn: int) -> None:
    orders = ["NA-DiNA", "DiNA-DiNA"][::turn]
    trainings = [
        training(order, kernel, seed, [0])
        for seed in range(2)
        for order in orders
        for kernel in (3, 5)[::turn]
    ]
    assert {(e.value, e.base) for e in effects(trainings, SCANS)} == {
        ("DiNA-DiNA", "NA-DiNA"),
        ("3", "5"),
    }


def test_only_differences_beyond_the_noise_have_a_sign() -> None:
    def verdict(counts: list[int], seeds: int = 3) -> str:
        trainings = [training("NA-NA", 3, s, list(range(50))) for s in range(seeds)]
        trainings += [training("DiNA-NA", 3, s, list(range(counts[s]))) for s in range(seeds)]
        return effects(trainings, SCANS)[0].verdict

    assert verdict([0, 1, 2]) == "better"
    assert verdict([90, 91, 92]) == "worse"
    assert verdict([50, 50, 50]) == "within the noise"
    assert verdict([45, 50, 52]) == "within the noise"
    assert verdict([0], seeds=1) == "one seed says nothing"


def test_the_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "ablation.json"
    assert read_ablation(path, RECIPE) is None
    kept = AblationFile(created_by="test", recipe=RECIPE).with_training(
        training("NA-NA", 3, 0, [1, 5])
    )
    kept.write(path)
    assert read_ablation(path, RECIPE) == kept
    with pytest.raises(ConfigError, match="trainings with epochs 1, and 2 is asked for"):
        read_ablation(path, RECIPE.model_copy(update={"epochs": 2}))


def damaged(path: Path, change: str) -> None:
    data = json.loads(
        AblationFile(created_by="t", recipe=RECIPE)
        .with_training(training("NA-NA", 3, 0, [1]))
        .model_dump_json()
    )
    if change == "twice":
        data["trainings"] *= 2
    elif change == "outside":
        data["trainings"][0]["wrong"] = [SCANS]
    elif change == "other model":
        data["trainings"][0]["config"]["embed_dim"] = 64
    else:
        data = {"kind": change}
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("twice", "the same training twice"),
        ("outside", "a wrong scan that was not judged"),
        ("other model", "another model under the name of NA-NA, kernel size 3"),
        ("comparison", "exists and is not what ablate wrote"),
    ],
)
def test_what_ablate_did_not_write_is_refused_and_left(
    change: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "ablation.json"
    damaged(path, change)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=message):
        read_ablation(path, RECIPE)
    assert path.read_bytes() == before


def test_a_browser_draws_the_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    trainings = [
        training(order, kernel, seed, sorted(rng.choice(SCANS, 5 + kernel, replace=False).tolist()))
        for order in ORDERS
        for kernel in (3, 7)
        for seed in range(3)
    ]
    page = tmp_path / "page.html"
    page.write_text(
        to_html(cells(trainings, SCANS), effects(trainings, SCANS), ["<b>a remark</b>"])
    )
    rendered = open_page(page, tmp_path)
    outline = Outline(rendered.dom)
    assert rendered.console == []
    assert outline.traces == {"plot-trainings": 4, "plot-effects": 1}
    assert "<b>a remark</b>" in outline.text
    assert "Not measured here" in outline.text
