"""The ablation from its first training to its page, with an interrupt in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dinat_deploy.choosing import ablation_training
from dinat_deploy.choosing.ablation_records import AblationFile
from dinat_deploy.errors import ConfigError, OutputError
from dinat_deploy.pipeline.ablating import ablate

SMALL: dict[str, Any] = {
    "orders": ["NA-NA", "DiNA-NA"], "kernel_sizes": [7], "seeds": 2, "epochs": 1, "limit": 64
}  # fmt: skip


def test_an_interrupt_loses_one_training_and_the_rest_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, page = tmp_path / "new" / "ablation.json", tmp_path / "page.html"
    whole, begun = ablation_training.train, []

    def counting(*arguments: Any, **options: Any) -> Any:
        begun.append(options["seed"])
        if len(begun) == 3:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(ablation_training, "train", counting)
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        ablate(**SMALL, output=path, plot=page)
    assert torch.get_num_threads() == threads
    kept = AblationFile.model_validate_json(path.read_text())
    # Seed by seed, so that every model has had its turn.
    assert [each.key for each in kept.trainings] == [("NA-NA", 7, 0), ("DiNA-NA", 7, 0)]
    assert not page.exists()

    report = ablate(**SMALL, output=path, plot=page)
    assert report.trained == 2
    assert begun == [0, 0, 1, 1, 1]
    assert page.exists()
    finished = AblationFile.model_validate_json(path.read_text())
    assert finished.trainings[:2] == kept.trainings
    assert sorted(tmp_path.glob("**/*")) == [tmp_path / "new", path, page]

    before = path.read_bytes()
    again = ablate(**SMALL | {"orders": ["DiNA-NA"]}, output=path)
    assert again.trained == 0
    assert path.read_bytes() == before
    (cell,) = again.cells
    assert cell == report.cells[1]
    assert again.effects == []
    found(report)
    with pytest.raises(ConfigError, match="trainings with epochs 1, and 2 is asked for"):
        ablate(**SMALL | {"epochs": 2}, output=path)
    assert path.read_bytes() == before


def found(report: Any) -> None:
    assert [len(cell.accuracies) for cell in report.cells] == [2, 2]
    assert all(0 <= accuracy <= 100 for cell in report.cells for accuracy in cell.accuracies)
    (effect,) = report.effects
    first, second = report.cells
    assert effect.difference == pytest.approx(second.mean - first.mean)
    assert report.remarks[0].startswith("A toy: scans of 8x8 pixels")
    told = json.loads(json.dumps(report.to_dict()))
    assert told["models"][1]["dilations"] == "2,1/1,1"
    assert told["published"]["results"][0]["top1"] == 83.2


def test_something_else_in_place_of_the_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text("my notes")
    with pytest.raises(OutputError, match="not what ablate wrote: it is no JSON"):
        ablate(**SMALL, output=path)
    assert path.read_text() == "my notes"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_sizes": [9]}, "Kernel size 9 is not possible here: .* the first map, of 14x14"),
        ({"kernel_sizes": [4]}, "Kernel size 4 is not possible here: it has to be odd"),
        ({"kernel_sizes": []}, "No model is left"),
        ({"orders": ["NA"]}, "'NA' is no order of layers"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": 21}, "21 seeds are more than the 20"),
        ({"limit": 10}, "limit is 10, and must be at least 64"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        ablate(**SMALL | options, output=tmp_path / "ablation.json")
    assert not list(tmp_path.iterdir())
