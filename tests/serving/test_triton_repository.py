"""What Triton refuses is refused by the check, and what is packaged passes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dinat_deploy.pipeline.packaging import check_package
from dinat_deploy.serving.problems import PackageError
from dinat_deploy.serving.triton_definitions import parse, read
from tests.serving.broken import BREAKS, LEFT_OUT, NAME, Break, edit


def test_what_is_packaged_passes(packaged: Path) -> None:
    found = check_package(packaged)
    assert found.passed, found.problems
    assert found.models == [NAME, f"{NAME}_pipeline", f"{NAME}_postprocess", f"{NAME}_preprocess"]
    assert check_package(packaged / "models").passed  # the repository alone as well


@pytest.mark.parametrize("broken", BREAKS, ids=str)
def test_what_triton_refuses_is_refused(packaged: Path, broken: Break) -> None:
    broken.do(packaged)
    problems = check_package(packaged).problems
    assert any(
        problem.where == broken.where and re.search(broken.said, str(problem))
        for problem in problems
    ), problems


def test_what_triton_lets_a_user_change_passes(packaged: Path) -> None:
    edit(NAME, "count: 1", "count: 3")(packaged)
    edit(NAME, "max_batch_size: 8", "max_batch_size: 16")(packaged)
    edit(
        NAME,
        r"dynamic_batching \{",
        "dynamic_batching { preferred_batch_size: [4, 16] max_queue_delay_microseconds: 500 ",
    )(packaged)
    assert check_package(packaged).passed


@pytest.mark.parametrize("left_out", LEFT_OUT, ids=list(LEFT_OUT))
def test_what_triton_adds_itself_may_be_left_out(packaged: Path, left_out: str) -> None:
    LEFT_OUT[left_out](packaged)
    found = check_package(packaged)
    assert found.passed, found.problems


def test_a_model_needs_no_configuration_where_its_file_says_all(packaged: Path) -> None:
    """Then Triton takes batches of 4."""
    (packaged / "models" / NAME / "config.pbtxt").unlink()
    (problem,) = check_package(packaged).problems
    assert "batches of up to 8, and its step tiny of up to 4" in problem.cause
    edit(f"{NAME}_pipeline", "max_batch_size: 8", "max_batch_size: 4")(packaged)
    assert check_package(packaged).passed
    (packaged / "models" / f"{NAME}_preprocess" / "config.pbtxt").unlink()
    problems = check_package(packaged).problems
    assert any("It has no config.pbtxt" in problem.cause for problem in problems)


def test_another_shape_of_the_model_is_compared_with_its_file(packaged: Path) -> None:
    edit(NAME, r"dims: \[3, 64, 64\]", "dims: [3, 4096]\n  reshape { shape: [3, 64, 32] }")(
        packaged
    )
    causes = [problem.cause for problem in check_package(packaged).problems]
    assert any("[3, 64, 32], and in" in cause for cause in causes)


def test_texts_are_read_by_tritons_definitions(packaged: Path) -> None:
    """Labels with quotes and umlauts, and every field, survive the way there and back."""
    for file in sorted(packaged.glob("models/*/config.pbtxt")):
        text = file.read_text(encoding="utf-8")
        message = parse(text)
        assert message.name == file.parent.name
        assert read(text).to_text() == text
    network = parse((packaged / "models" / NAME / "config.pbtxt").read_text())
    assert list(network.input[0].dims) == [3, 64, 64]
    assert network.output[0].label_filename == "labels.txt"
    assert [warm.batch_size for warm in network.model_warmup] == [1, 8]
    assert network.model_warmup[0].inputs["image"].zero_data
    assert network.HasField("dynamic_batching")
    ensemble = parse((packaged / f"models/{NAME}_pipeline/config.pbtxt").read_text())
    steps = [step.model_name for step in ensemble.ensemble_scheduling.step]
    assert steps == [f"{NAME}_preprocess", NAME, f"{NAME}_postprocess"]


def test_a_directory_without_models_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="holds no model repository"):
        check_package(tmp_path)


def test_a_changed_file_is_noticed_and_an_edited_configuration_is_not(packaged: Path) -> None:
    labels = packaged / "models" / NAME / "labels.txt"
    labels.write_text(labels.read_text().replace("class 1", "class I"), encoding="utf-8")
    edit(NAME, "count: 1", "count: 2")(packaged)
    (problem,) = check_package(packaged).problems
    assert problem.where == f"models/{NAME}/labels.txt"
    assert "was changed" in problem.cause


def test_labels_that_do_not_count_the_classes_are_noticed(packaged: Path) -> None:
    labels = packaged / "models" / NAME / "labels.txt"
    labels.write_text("one\ntwo\n")
    causes = [problem.cause for problem in check_package(packaged).problems]
    assert any("has 10 classes, and labels.txt names 2" in cause for cause in causes)


def test_labels_that_are_no_text_are_a_problem_and_no_traceback(packaged: Path) -> None:
    (packaged / "models" / NAME / "labels.txt").write_bytes(b"\xff\xfe")
    causes = [problem.cause for problem in check_package(packaged).problems]
    assert any("labels.txt is no text in UTF-8" in cause for cause in causes)


def test_a_package_that_cannot_be_started_is_noticed(packaged: Path) -> None:
    (packaged / "start.sh").unlink()
    (problem,) = check_package(packaged).problems
    assert (problem.where, problem.cause) == ("start.sh", "It is missing, and starts the server.")


def test_a_record_that_cannot_be_printed_is_refused(packaged: Path) -> None:
    record = packaged / "package.json"
    record.write_text(record.read_text().replace("labels.txt", "\\ud800"))
    with pytest.raises(PackageError, match="is not readable JSON"):
        check_package(packaged)


def test_a_record_that_leads_outside_reads_nothing(packaged: Path, tmp_path: Path) -> None:
    record = packaged / "package.json"
    secret = tmp_path / "secret"
    secret.write_text("x")
    record.write_text(record.read_text().replace(f"models/{NAME}/labels.txt", "../secret"))
    causes = [str(problem) for problem in check_package(packaged).problems]
    assert any("names ../secret, which is outside" in cause for cause in causes)
