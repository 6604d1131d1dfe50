"""On a Ray cluster the numbers are the same, and an actor that is killed loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinat_deploy.bundle import open_bundle
from dinat_deploy.data.opening import open_dataset
from dinat_deploy.errors import DataError, DinatDeployError
from dinat_deploy.pipeline.evaluating import evaluate
from dinat_deploy.pipeline.evaluation_ray import connected, import_ray
from tests.pipeline import evaluated_models as models

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """The cluster that ``--ray local`` starts, kept for all tests: it takes a few seconds."""
    ray = import_ray()
    with connected(ray, "local", 2):
        yield ray
    assert not ray.is_initialized()


@pytest.fixture
def names(tmp_path: Path) -> list[Path]:
    return [
        models.classifier(tmp_path / "exact.onnx"),
        models.classifier(tmp_path / "noisy.onnx", noise=0.2),
    ]


def test_two_actors_equal_one_process_although_one_is_killed(
    cluster: Any, names: list[Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    preprocessing = open_bundle(tiny_bundle).manifest.preprocessing
    data = open_dataset(models.labelled(tmp_path / "data.npz", 45, wrong=3), preprocessing)
    options = {"bundle": tiny_bundle, "batch": 2, "latency": False}
    alone = evaluate(names, data, **options)
    killing = models.deadly(data, 21, tmp_path / "lives", deaths=1)
    spread = evaluate(names, killing, **options, ray="local", workers=2)
    assert not list(killing.lives.iterdir())  # it happened
    assert [(a.scores, a.loss) for a in spread.artefacts] == [
        (a.scores, a.loss) for a in alone.artefacts
    ]
    assert alone.artefacts[0].scores.top1 == 42 / 45
    assert [note for note in spread.notes if "batch 10 is done again" in note]
    assert spread.spread == "Ray (local)"
    assert cluster.is_initialized()  # a connection that was there before is kept


def test_errors_of_actors_are_said_here(
    cluster: Any, names: list[Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    inputs = models.images(4)
    inputs[3, 0, 0, 0] = np.nan
    np.savez(tmp_path / "bad.npz", images=inputs)
    with pytest.raises(DataError, match=r"bad\.npz\[3\] has 1 values"):
        evaluate(
            names, tmp_path / "bad.npz", bundle=tiny_bundle, batch=4, latency=False, ray="local"
        )


def test_a_cluster_that_is_not_there_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = import_ray()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(DinatDeployError, match="no Ray cluster at 127.0.0.1:1: ") as raised,
        connected(ray, "127.0.0.1:1", 0),
    ):
        pass
    assert "--ray local" in raised.value.cure
