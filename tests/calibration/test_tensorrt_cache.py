"""TensorRT's calibration cache, byte by byte."""

from __future__ import annotations

import struct

import pytest

from dinat_deploy.calibration.tensorrt_cache import read_cache, version_number, write_cache
from dinat_deploy.errors import ConversionError

RANGES = {
    "image": 2.640000104904175,
    "levels.0.blocks.0.attn.qkv/MatMul:0": 7.25,
    "(Unnamed Layer* 64) [Shuffle]_output": 127.0,
}


def test_a_cache_has_the_bits_of_each_scale(tmp_path):
    path = tmp_path / "calibration.cache"
    write_cache(path, RANGES, version="10.3.0")
    expected = ["TRT-100300-EntropyCalibration2"]
    expected += [f"{name}: {struct.pack('>f', r / 127).hex()}" for name, r in RANGES.items()]
    assert path.read_text() == "\n".join(expected) + "\n"
    assert expected[3] == "(Unnamed Layer* 64) [Shuffle]_output: 3f800000"


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "calibration.cache"
    write_cache(path, RANGES, version="8.6.1", algorithm="MinMaxCalibration")
    found = read_cache(path)
    assert (found.version, found.algorithm) == (8601, "MinMaxCalibration")
    assert list(found.ranges) == list(RANGES)
    assert found.ranges == pytest.approx(RANGES, rel=1e-7)


def test_a_cache_of_tensorrts_own_is_read(tmp_path):
    path = tmp_path / "calibration.cache"
    # TensorRT writes no leading zeros, and 0 for tensors without a range.
    path.write_text("TRT-8401-EntropyCalibration2\ninput_1:0: 3c010a14\n366: 0\ntiny: 123456\n\n")
    found = read_cache(path)
    assert found.version == 8401
    assert list(found.ranges) == ["input_1:0", "tiny"]
    assert found.ranges["input_1:0"] == pytest.approx(1.0, rel=1e-3)  # 1/127 is 3c010204
    assert found.ranges["tiny"] == 127 * struct.unpack(">f", bytes.fromhex("00123456"))[0]


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("7.1.3", 7103),
        ("8.4.1", 8401),
        ("8.6.1", 8601),
        ("8.6.1.6", 8601),
        ("8.6.1.post1", 8601),
        ("10.3", 100300),
        ("10.3.0.30", 100300),
        ("10.14.1", 101401),
    ],
)
def test_versions_are_numbers_in_the_header(version, number):
    assert version_number(version) == number


@pytest.mark.parametrize(
    ("version", "said"), [("newest", "no version"), ("10", "no version"), ("11.0.0", "reads no")]
)
def test_versions_without_a_cache_are_refused(version, said):
    with pytest.raises(ConversionError, match=said):
        version_number(version)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "line 1: ''"),
        ("TRT-EntropyCalibration2\n", "line 1: 'TRT-EntropyCalibration2', and TRT-<version>"),
        ("TRT-100300-EntropyCalibration2\na: 3c010a14\nb 3c010a14\n", "line 3: 'b 3c010a14'"),
        ("TRT-100300-EntropyCalibration2\nlevels.0/MatMul:0\n", "line 2: 'levels.0/MatMul:0'"),
        ("TRT-100300-EntropyCalibration2\na: 3c010a1g\n", "line 2"),
        ("TRT-100300-EntropyCalibration2\na: 7f800000\n", "line 2: the scale of a is inf"),
        ("TRT-100300-EntropyCalibration2\na: bf800000\n", "line 2: the scale of a is -1.0"),
        ("TRT-100300-EntropyCalibration2\na: 3c010a14\na: 3c010a14\n", "line 3: a is there twice"),
    ],
)
def test_damaged_lines_are_named(tmp_path, content, said):
    path = tmp_path / "calibration.cache"
    path.write_text(content)
    with pytest.raises(ConversionError, match=said):
        read_cache(path)


def test_files_that_are_no_text_or_missing_are_named(tmp_path):
    path = tmp_path / "engine.plan"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ConversionError, match=r"engine\.plan is no text"):
        read_cache(path)
    with pytest.raises(ConversionError, match="cannot be read"):
        read_cache(tmp_path / "gone.cache")


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        ({"a": 0.0}, "range of a is 0"),
        ({"a": float("nan")}, "range of a is nan"),
        ({"a": 1e300}, "range of a is 1e"),
        ({"a\nb": 1.0}, "line break"),
    ],
)
def test_ranges_that_no_cache_can_hold_are_refused(tmp_path, ranges, said):
    with pytest.raises(ConversionError, match=said):
        write_cache(tmp_path / "calibration.cache", ranges, version="10.3.0")
    assert list(tmp_path.iterdir()) == []
