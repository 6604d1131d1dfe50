"""Estimates: the floors worked out beside them by hand, the models' work, rates and launches."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dinat_deploy.choosing.devices import DEVICES, device_of_gpu, get_device
from dinat_deploy.choosing.estimate import Precision, estimate, part_time
from dinat_deploy.choosing.parts import parts
from dinat_deploy.errors import ConfigError
from dinat_deploy.measurement.gpu_table import known_gpus
from dinat_deploy.models.complexity import cost, parameter_count
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.zoo import VARIANTS

TINY = VARIANTS["dinat_tiny"].config
GPUS = ("h200", "agx-orin", "orin-nano-super", "thor", "rtx-4090")
# Microseconds of one neighborhood attention of the four levels of mini and tiny in FP16, as printed
# in the project's own analysis: image (height, width), batch -> by level -> one text for each GPU.
FLOORS: dict[tuple[int, int, int], list[str]] = {
    (224, 224, 1): ["0.37 7.8 15.7 5.9 1.6", "0.19 3.9 7.8 2.9 0.8", "0.09 2.0 3.9 1.5 0.4", "0.05 1.0 2.0 0.7 0.2"],
    (384, 384, 1): ["1.1 23 46 17 4.7", "0.55 11.5 23 8.6 2.3", "0.27 5.8 11.5 4.3 1.2", "0.14 2.9 5.8 2.2 0.6"],
    (512, 512, 1): ["2.0 41 82 31 8.3", "0.98 20 41 15 4.2", "0.49 10 20 7.7 2.1", "0.24 5.1 10 3.8 1.0"],
    (800, 1333, 1): ["8.0 167 334 125 34", "4.0 84 167 63 17", "2.0 42 84 32 8.5", "1.0 21 42 16 4.3"],
    (1024, 1024, 1): ["7.8 164 328 123 33", "3.9 82 164 61 17", "2.0 41 82 31 8.3", "1.0 20 41 15 4.2"],
    (224, 224, 64): ["24 502 1004 376 102", "12 251 502 188 51", "6 125 251 94 25", "3 63 125 47 13"],
    (1024, 1024, 64): ["499 10500 21000 7900 2100", "250 5200 10500 3900 1100", "125 2600 5200 2000 530", "62 1300 2600 1000 270"],
}  # fmt: skip


def attention_us(config: ModelConfig, gpu: str, batch: int = 1) -> list[float]:
    """Floor of every layer's attention in FP16."""
    found = [part for part in parts(config, batch) if part.kind == "attention"]
    return [1e3 * part_time(part, get_device(gpu), "fp16").floor for part in found]


def _half_a_digit(text: str) -> float:
    """Half of the last digit that is printed."""
    if "." in text:
        return 0.5 * 10 ** -len(text.partition(".")[2])
    return 50.0 if text.endswith("00") else 0.5


@pytest.mark.parametrize("case", FLOORS, ids=lambda case: "x".join(map(str, case)))
def test_attention_has_the_floors_of_the_analysis_within_5_percent(
    case: tuple[int, int, int],
) -> None:
    height, width, batch = case
    config = TINY.replace(image_size=(height, width))
    layer = 0
    for depth, printed in zip(config.depths, FLOORS[case], strict=True):
        for gpu, text in zip(GPUS, printed.split(), strict=True):
            found = attention_us(config, gpu, batch)[layer]
            tolerance = 0.05 * float(text) + _half_a_digit(text)
            assert found == pytest.approx(float(text), abs=tolerance, rel=0), (gpu, layer)
        layer += depth


# Sums over all layers at 224 pixels, on an H200, AGX Orin, Orin Nano Super and RTX 4090.
SUMS = {
    "dinat_mini": (2.66, 56, 112, 11.3),
    "dinat_tiny": (3.8, 79, 159, 16),
    "dinat_small": (5.7, 119, 238, 24),
    "dinat_base": (7.6, 159, 318, 32),
    "dinat_large": (11.3, 238, 476, 48),
    "dinat_large_384": (33, 700, 1400, 142),
}


@pytest.mark.parametrize("name", SUMS)
def test_attention_of_whole_models_has_the_floors_of_the_analysis(name: str) -> None:
    config = VARIANTS[name].config
    for gpu, microseconds in zip(
        ("h200", "agx-orin", "orin-nano-super", "rtx-4090"), SUMS[name], strict=True
    ):
        assert sum(attention_us(config, gpu)) == pytest.approx(microseconds, rel=0.05)


# Share of the ideal time of the layers when weights are read once for many images.
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("dinat_mini", 15.5, 16.5), ("dinat_tiny", 15.5, 16.5), ("dinat_small", 15, 17), ("dinat_base", 13.6, 15.3), ("dinat_large", 10.5, 12.5)],
)  # fmt: skip
def test_attention_has_the_share_of_the_analysis(name: str, low: float, high: float) -> None:
    for gpu in ("h200", "agx-orin", "orin-nano-super"):
        layers = [
            (part.kind, part_time(part, get_device(gpu), "fp16").floor)
            for part in parts(VARIANTS[name].config, 64)
            if part.stage.startswith("level") and not part.name.startswith("downsampler")
        ]
        share = sum(t for kind, t in layers if kind == "attention") / sum(t for _, t in layers)
        assert low <= 100 * share <= high, gpu


def test_layers_of_tiny_at_1024_take_the_time_of_the_analysis() -> None:
    config = TINY.replace(image_size=(1024, 1024))
    times = [
        part_time(part, get_device("agx-orin"), "fp16").floor
        for part in parts(config)
        if part.stage.startswith("level") and not part.name.startswith("downsampler")
    ]
    assert sum(times) == pytest.approx(10.2, rel=0.05)
    assert sum(attention_us(config, "agx-orin")) == pytest.approx(1660, rel=0.05)


@pytest.mark.parametrize("size", [(224, 224), (300, 501)])
@pytest.mark.parametrize(
    "name", ["nat_mini", "dinat_large_384_11x11", "dinat_s_tiny", "dinat_isotropic_small"]
)
def test_parts_do_the_work_of_the_model(name: str, size: tuple[int, int]) -> None:
    config = VARIANTS[name].config.replace(image_size=size)
    counted, found = cost(config), parts(config, 3)
    assert sum(part.macs for part in found) == 3 * counted.macs
    assert (
        sum(part.macs for part in found if part.kind == "attention") == 3 * counted.attention_macs
    )
    # Biases, norms and layer scale are not counted as reads of their own.
    assert sum(part.weights for part in found) == pytest.approx(parameter_count(config), rel=0.01)
    assert sum(part.weights for part in found) < parameter_count(config)


def test_a_backbone_writes_features_and_has_no_head() -> None:
    config = TINY.replace(out_levels=(1, 3))
    found = parts(config)
    assert not [part for part in found if part.stage == "head"]
    outputs = [part for part in found if part.name == "output"]
    assert [part.wide for part in outputs] == [28 * 28 * 128, 7 * 7 * 512]


def bytes_of(name: str, precision: Precision) -> int:
    (part,) = [
        part
        for part in parts(TINY)
        if part.name == name and part.stage in ("level 4", "tokenizer", "head")
    ][:1]
    return part_time(part, get_device("agx-orin"), precision).bytes


def test_bytes_are_those_of_the_precision() -> None:
    tokens, dim = 49, 512
    qkv = tokens * dim, 3 * tokens * dim, 3 * dim * dim  # read, written, weights
    assert bytes_of("qkv", "fp32") == 4 * sum(qkv)
    assert bytes_of("qkv", "bf16") == 2 * sum(qkv)
    assert bytes_of("qkv", "int8") == qkv[0] + 2 * qkv[1] + qkv[2]
    # Residuals stay in FP16 beside quantized factors.
    assert bytes_of("proj", "int8") == tokens * dim + 2 * 2 * tokens * dim + dim * dim
    # The image and the logits are float32 whatever the precision.
    image, inner, weights = 3 * 224 * 224, 112 * 112 * 32, 27 * 32
    assert bytes_of("convolution 1", "fp16") == 4 * image + 2 * (inner + weights)
    assert bytes_of("convolution 1", "int8") == 4 * image + 2 * inner + weights
    assert bytes_of("classifier", "fp16") == 2 * (dim + dim * 1000) + 4 * 1000


def test_no_kernel_is_faster_than_its_launch() -> None:
    found = estimate(TINY, get_device("h200"), "fp16")
    whole = found.whole
    assert whole.floor < whole.total < whole.floor + whole.kernels * 1.25e-3
    assert whole.bound == "launch"
    assert estimate(TINY, get_device("h200"), "fp16", launch_us=0).whole.total == whole.floor
    slow = estimate(TINY, get_device("h200"), "fp16", launch_us=1000)
    assert slow.whole.total == pytest.approx(whole.kernels)
    assert slow.attention_share == pytest.approx(30 / whole.kernels)
    assert (
        estimate(TINY, get_device("orin-nano-super"), "fp16", image_size=(512, 512)).whole.bound
        == "memory"
    )


def test_products_without_tensor_cores_are_bound_by_compute() -> None:
    base = VARIANTS["dinat_base"].config
    single = estimate(base, get_device("agx-orin"), "fp32", batch=8).whole
    assert single.bound == "compute"
    half = estimate(base, get_device("agx-orin"), "fp16", batch=8).whole
    int8 = estimate(base, get_device("agx-orin"), "int8", batch=8).whole
    assert single.total > 2 * half.total > 2 * int8.total


def test_every_gpu_of_the_table_has_a_short_name() -> None:
    for figures in known_gpus():
        assert device_of_gpu(figures.name), figures.name
    assert len({device.name for device in DEVICES.values()}) == len(DEVICES)
    assert [device.name for device in device_of_gpu("Jetson Orin Nano 8GB")] == [
        "orin-nano",
        "orin-nano-super",
    ]


def test_a_jetson_has_the_published_rates_at_each_clock() -> None:
    rates = {"orin-nano": 10.2, "orin-nano-super": 16.7, "orin-nx-8gb": 12.5, "orin-nx": 15.0, "orin-nx-super": 19.2, "agx-orin-32gb": 26.7, "agx-orin": 42.6, "orin-nano-4gb": 5.1, "orin-nano-4gb-super": 8.4, "thor": 258}  # fmt: skip
    for name, tflops in rates.items():
        assert get_device(name).figures.half == pytest.approx(tflops, rel=0.01), name


def test_devices_are_found_in_any_spelling() -> None:
    assert get_device("Orin Nano Super") is get_device("jetson_orin_nano_super")
    assert get_device("NVIDIA GeForce RTX 4090").name == "rtx-4090"
    with pytest.raises(
        ConfigError, match=r"Unknown device 'orin-nano-supr'. Did you mean orin-nano-super"
    ):
        get_device("orin-nano-supr")


def test_a_rate_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigError, match="Thor T5000 has no tensor cores for int8, or no rate"):
        estimate(TINY, get_device("thor"), "int8")
    with pytest.raises(ConfigError, match="T4 has no tensor cores for bf16"):
        estimate(TINY, get_device("t4"), "bf16")


def test_a_faster_memory_gives_a_lower_floor_in_proportion() -> None:
    device = get_device("agx-orin")
    faster = replace(
        device, figures=replace(device.figures, bandwidth=2 * device.figures.bandwidth)
    )
    for part in parts(TINY):
        slow, fast = (part_time(part, on, "fp16") for on in (device, faster))
        assert math.isclose(slow.memory, 2 * fast.memory)
        assert slow.compute == fast.compute
