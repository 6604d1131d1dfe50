"""The TensorRT plugin's host code without TensorRT and without a GPU (tensorrt_driver.py)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.plugins.conftest import TargetBuilder
from tests.plugins.tensorrt_driver import (
    BF16,
    BUILD,
    CHW2,
    FLOAT,
    HALF,
    INT8,
    INT32,
    LINEAR,
    NO_DRIVER,
    NO_KERNEL_IMAGE,
    PACKED,
    RUNTIME,
    SPLIT,
    Driver,
    Field,
    FieldCollection,
    Plugin,
    Value,
    dynamic,
    fields_of,
    tensor,
    values_of,
)

# A node of two heads of 32 channels on a map of 28 x 30.
ATTRIBUTES: dict[str, Any] = {
    "num_heads": 2,
    "head_dim": 32,
    "kernel_size": [7, 5],
    "dilation": [2, 3],
    "scale": 0.17677669,
    "height": 28,
    "width": 30,
}
QKV = [4, 28, 30, 192]
OUTPUT = [4, 28, 30, 64]
PART = [4, 28, 30, 2, 32]
RPB = [2, 13, 9]
PORTABLE, TILE8, GROUP = 1, 3, 5


@pytest.fixture(scope="session")
def library(native_target: TargetBuilder) -> Driver:
    return Driver(native_target("dinat_tensorrt_driver"))


@pytest.fixture
def driver(library: Driver) -> Driver:
    library.log_through(11)
    library.messages()
    library.gpu()
    return library


def made(driver: Driver, name: str = PACKED, **changes: Any) -> Plugin:
    """A plugin of changed attributes; None takes an attribute away."""
    fields = {k: v for k, v in (ATTRIBUTES | changes).items() if v is not None}
    plugin = driver.create(name, fields)
    assert plugin is not None, driver.messages()
    return plugin


@pytest.mark.parametrize("name", [PACKED, SPLIT])
def test_a_node_becomes_a_plugin_of_its_name(driver: Driver, name: str) -> None:
    assert made(driver, name).identity == (name, "1", "dinat")
    assert driver.messages() == ""


def test_the_parser_is_told_every_attribute_of_the_schema(driver: Driver) -> None:
    collection = driver.advertised(PACKED)
    advertised = {f.name.decode(): f.length for f in collection.fields[: collection.count]}
    assert advertised == {
        "num_heads": 1,
        "head_dim": 1,
        "kernel_size": 2,
        "dilation": 2,
        "scale": 1,
        "height": 1,
        "width": 1,
    }


# ---- Attributes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_heads": Value("int64", [2])}, "num_heads is 1 int64 value; expected 1 int32 value"),
        ({"num_heads": "two"}, "num_heads is a string; expected 1 int32 value"),
        ({"num_heads": [2, 2]}, "num_heads is 2 int32 values; expected 1 int32 value"),
        ({"kernel_size": 7}, "kernel_size is 1 int32 value; expected 2 int32 values"),
        ({"kernel_size": [7, 7, 7]}, "kernel_size is 3 int32 values; expected 2"),
        ({"dilation": [2.0, 3.0]}, "dilation is 2 float32 values; expected 2 int32 values"),
        ({"scale": 1}, "scale is 1 int32 value; expected 1 float32 value"),
        ({"scale": Value("float64", [0.5])}, "scale is 1 float64 value; expected 1 float32 value"),
        ({"height": [28, 30]}, "height is 2 int32 values; expected 1 int32 value"),
        ({"width": None}, "width is 0 int32 values; expected 1 int32 value"),
        ({"num_heads": 0}, "0 heads of 32 channels; expected at least 1"),
        ({"head_dim": -1}, "2 heads of -1 channels; expected at least 1"),
        ({"kernel_size": [7, 0]}, "kernel_size is 0"),
        ({"dilation": [0, 3]}, "dilation 0"),
        ({"scale": float("nan")}, "scale is nan; expected a finite number"),
        ({"scale": float("inf")}, "scale is inf; expected a finite number"),
        ({"height": 0}, "height is 0; expected at least 1"),
        ({"width": -1}, "width is -1; expected at least 1"),
        ({"dilation": [2, 7]}, "kernel_size 5 * dilation 7 = 35 exceeds the map's width of 30"),
        ({"dilation": [2**31 - 1, 1]}, "kernel_size 7 * dilation 2147483647 = 15032385529 exceeds"),
        (
            {"num_heads": 65536, "head_dim": 65536},
            "num_heads 65536 * head_dim 65536 = 4294967296 channels; expected at most 715827882",
        ),
        ({"dilations": [2, 3]}, "'dilations' is unknown; expected num_heads, head_dim"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_attribute_is_refused_with_a_message(
    driver: Driver, change: dict[str, Any], said: str
) -> None:
    assert driver.create(PACKED, ATTRIBUTES | change, layer="levels.1.attn") is None
    message = driver.messages()
    assert message.startswith(f"new 1 {PACKED} 'levels.1.attn': ")
    assert said in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("name", ["num_heads", "head_dim", "kernel_size", "dilation", "scale"])
def test_a_missing_attribute_is_refused(driver: Driver, name: str) -> None:
    fields = {k: v for k, v in ATTRIBUTES.items() if k != name}
    assert driver.create(SPLIT, fields) is None
    assert f"{SPLIT} 'levels.0': attribute {name} is missing" in driver.messages()


def test_an_attribute_that_is_given_twice_is_refused(driver: Driver) -> None:
    collection, kept = fields_of(ATTRIBUTES | {"twin": 3})
    collection.fields[collection.count - 1].name = b"num_heads"
    assert driver.create(PACKED, collection) is None
    assert "num_heads is given twice" in driver.messages()
    assert kept


@pytest.mark.parametrize(
    "collection", [None, FieldCollection(0, None), FieldCollection(3, None), FieldCollection(-1)]
)
def test_no_attributes_at_all_are_refused(
    driver: Driver, collection: FieldCollection | None
) -> None:
    assert driver.create(PACKED, collection) is None
    assert "expected" in driver.messages()


def test_a_field_without_a_name_is_refused(driver: Driver) -> None:
    collection, kept = fields_of(ATTRIBUTES)
    collection.fields[2].name = None
    assert driver.create(PACKED, collection, layer=None) is None
    assert "has no name" in driver.messages()
    assert kept


def test_what_tensorrt_looks_plugins_up_by_may_come_along(driver: Driver) -> None:
    made(driver, plugin_version="1", plugin_namespace="dinat")


# ---- Types and shapes -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FLOAT, HALF, BF16])
def test_the_output_has_the_type_of_the_inputs(driver: Driver, kind: int) -> None:
    assert made(driver).output_type(kind) == kind
    assert made(driver).output_type(kind, kind) == kind
    assert made(driver, SPLIT).output_type(kind, kind, kind, kind) == kind


@pytest.mark.parametrize(
    ("name", "types", "said"),
    [
        (PACKED, [INT8], "qkv is int8; expected float32, float16 or bfloat16"),
        (PACKED, [HALF, FLOAT], "rpb is float32 and qkv is float16; expected one type"),
        (SPLIT, [HALF, HALF, BF16], "value is bfloat16 and query is float16"),
        (SPLIT, [HALF, INT32, HALF], "key is int32; expected float32"),
        (PACKED, [99], "qkv is of another type; expected float32"),
        (PACKED, [], "there are 0 inputs; expected 1 (qkv) or 2 (with rpb)"),
        (PACKED, [HALF] * 3, "there are 3 inputs; expected 1 (qkv) or 2 (with rpb)"),
        (SPLIT, [HALF] * 2, "there are 2 inputs; expected 3 (query, key, value) or 4 (with rpb)"),
    ],
)
def test_types_that_no_kernel_computes_are_refused(
    driver: Driver, name: str, types: list[int], said: str
) -> None:
    assert made(driver, name).output_type(*types) is None
    assert f"{name} 'levels.0': {said}" in driver.messages()


def test_a_second_output_is_refused(driver: Driver) -> None:
    assert made(driver).output_type(HALF, outputs=2) is None
    assert "there are 2 outputs; expected 1" in driver.messages()


def test_formats_are_row_major_and_of_one_supported_type(driver: Driver) -> None:
    plugin = made(driver)
    for kind in (FLOAT, HALF, BF16):
        given = [tensor(QKV, kind), tensor(RPB, kind), tensor(OUTPUT, kind)]
        assert [plugin.supports(i, *given) for i in range(3)] == [True] * 3
    assert not plugin.supports(0, tensor(QKV, INT8), tensor(OUTPUT, INT8))
    assert not plugin.supports(0, tensor(QKV, HALF, CHW2), tensor(OUTPUT, HALF, LINEAR))
    assert not plugin.supports(1, tensor(QKV, HALF), tensor(RPB, FLOAT), tensor(OUTPUT, HALF))
    assert not plugin.supports(2, tensor(QKV, HALF), tensor(RPB, HALF), tensor(OUTPUT, FLOAT))
    assert not plugin.supports(2, tensor(QKV), tensor(OUTPUT))  # there is no tensor 2


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (QKV, OUTPUT),
        ([-1, 28, 30, 192], [-1, 28, 30, 64]),
        ([-1, -1, -1, 192], [-1, -1, -1, 64]),
        ([-1, -1, -1, -1], [-1, -1, -1, 64]),
        ([0, 28, 30, 192], [0, 28, 30, 64]),
    ],
)
def test_the_packed_output_has_a_third_of_the_channels(
    driver: Driver, sizes: list[int], expected: list[int]
) -> None:
    assert made(driver).output_shape(sizes) == expected
    assert made(driver).output_shape(sizes, RPB) == expected


def test_the_split_output_has_the_shape_of_the_query(driver: Driver) -> None:
    unknown = [-1, -1, -1, 2, 32]
    assert made(driver, SPLIT).output_shape(PART, PART, PART) == PART
    assert made(driver, SPLIT).output_shape(unknown, PART, unknown, RPB) == unknown


@pytest.mark.parametrize(
    ("name", "shapes", "said"),
    [
        # Heads do not divide the channels.
        (PACKED, [[4, 28, 30, 100]], "qkv has shape [4, 28, 30, 100]; expected [-1, 28, 30, 192]"),
        (PACKED, [[28, 30, 192]], "qkv has shape [28, 30, 192]; expected [-1, 28, 30, 192]"),
        (PACKED, [[4, 27, 30, 192]], "expected [-1, 28, 30, 192]"),
        (PACKED, [[4, 28, 30, -2]], "qkv has shape [4, 28, 30, -2]"),
        (PACKED, [QKV, [2, 13, 13]], "rpb has shape [2, 13, 13]; expected [2, 13, 9], that is"),
        (PACKED, [QKV, [1, 13, 9]], "rpb has shape [1, 13, 9]; expected [2, 13, 9]"),
        (PACKED, [QKV, [2, 7, 5]], "[num_heads, 2*kernel_height-1, 2*kernel_width-1]"),
        (SPLIT, [PART, PART, [4, 28, 30, 4, 16]], "value has shape [4, 28, 30, 4, 16]"),
        (SPLIT, [PART, [1, *PART[1:]], PART], "key has shape [1, 28, 30, 2, 32]; expected [4, 28"),
        (SPLIT, [QKV, QKV, QKV], "query has shape [4, 28, 30, 192]; expected [-1, 28, 30, 2, 32]"),
        (SPLIT, [PART, PART], "there are 2 inputs"),
    ],
)
def test_a_wrong_shape_is_refused_with_the_expected_one(
    driver: Driver, name: str, shapes: list[list[int]], said: str
) -> None:
    assert made(driver, name).output_shape(*shapes) is None
    message = driver.messages()
    assert f"new 1 {name} 'levels.0': " in message
    assert said in message


def test_a_map_that_is_smaller_than_the_window_is_refused(driver: Driver) -> None:
    plugin = made(driver, height=None, width=None)
    assert plugin.output_shape([1, 14, 15, 192]) == [1, 14, 15, 64]
    assert plugin.output_shape([1, 13, 15, 192]) is None
    said = "kernel_size 7 * dilation 2 = 14 exceeds the map's height of 13; zero-pad the map"
    assert said in driver.messages()
    assert plugin.output_shape([1, 0, 15, 192]) is None


def test_more_elements_than_offsets_can_count_are_refused(driver: Driver) -> None:
    plugin = made(driver, height=None, width=None)
    most = 2**31 - 1
    assert plugin.output_shape([most, most, most, 192]) is None
    assert "expected at most 281474976710656 elements" in driver.messages()
    assert plugin.output_shape([1, 2**31, 30, 192]) is None
    assert "exceeds 2147483647" in driver.messages()


# ---- Profiles and tactics ---------------------------------------------------------------------------


def profile(
    least: list[int], best: list[int], most: list[int], kind: int = HALF
) -> tuple[Any, Any, Any]:
    """qkv of 192 channels, rpb and output for three shapes [batch, height, width]."""
    points = (least, best, most)
    network = [a if a == b == c else -1 for a, b, c in zip(*points, strict=True)]

    def of(channels: int) -> Any:
        return dynamic([*network, channels], *([*point, channels] for point in points), kind=kind)

    return of(192), dynamic(RPB, kind=kind), of(64)


@pytest.fixture
def sizeless(driver: Driver) -> Plugin:
    return made(driver, height=None, width=None)


def test_tactics_are_those_that_compute_the_whole_profile(driver: Driver, sizeless: Plugin) -> None:
    assert sizeless.configure(*profile([1, 14, 15], [1, 14, 15], [8, 14, 15]))
    assert sizeless.tactics() == [PORTABLE, TILE8, GROUP]
    assert sizeless.configure(*profile([1, 14, 15], [1, 14, 15], [8, 64, 64]))
    assert sizeless.tactics() == [PORTABLE, TILE8]  # a group of 64 / 2 does not fit a tile of 8
    assert sizeless.configure(*profile([1, 14, 15], [1, 14, 15], [8, 14, 15], kind=FLOAT))
    assert sizeless.tactics() == [PORTABLE]
    assert driver.messages() == ""


def test_without_a_gpu_a_network_is_configured_and_no_tactic_offered(
    driver: Driver, sizeless: Plugin
) -> None:
    driver.gpu(device=NO_DRIVER)
    assert sizeless.configure(*profile([1, 14, 15], [1, 28, 30], [8, 64, 64]))
    assert sizeless.tactics() == []
    assert driver.messages() == ""


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (([1, 13, 15], [1, 28, 30], [1, 28, 30]), "at the minimum of the optimization profile, "),
        (([1, 28, 14], [1, 28, 30], [1, 28, 30]), "= 15 exceeds the map's width of 14"),
        (([1, 28, 30], [1, 28, 30], [2**40, 28, 30]), "at the maximum of the optimization profile"),
    ],
)
def test_a_profile_that_reaches_too_far_is_refused(
    driver: Driver, sizeless: Plugin, points: tuple[list[int], ...], said: str
) -> None:
    assert not sizeless.configure(*profile(*points))
    assert sizeless.tactics() == []
    assert said in driver.messages()


def test_a_profile_of_the_wrong_output_is_refused(driver: Driver, sizeless: Plugin) -> None:
    qkv, rpb, _ = profile([1, 28, 30], [1, 28, 30], [8, 28, 30])
    wrong = dynamic([-1, 28, 30, 64], [1, 28, 30, 64], [2, 28, 30, 64], [8, 28, 30, 64], kind=HALF)
    assert not sizeless.configure(qkv, rpb, wrong)
    assert "at the optimum of the optimization profile, output has shape [2" in driver.messages()


def test_wildcards_in_a_profile_are_tolerated(driver: Driver, sizeless: Plugin) -> None:
    unknown, unknown_output = [-1, -1, -1, 192], [-1, -1, -1, 64]
    assert sizeless.configure(
        dynamic(unknown, kind=HALF), dynamic(RPB, kind=HALF), dynamic(unknown_output, kind=HALF)
    )
    assert sizeless.tactics() == []


def test_a_type_that_does_not_fit_is_refused_when_configured(driver: Driver) -> None:
    assert not made(driver).configure(dynamic(QKV, kind=HALF), dynamic(OUTPUT, kind=FLOAT))
    assert "output is float32 and qkv is float16" in driver.messages()


def test_timings_are_cached_by_attributes(driver: Driver) -> None:
    plugin = made(driver)
    assert plugin.timing_id == made(driver).clone().timing_id
    changed = [
        made(driver, **change).timing_id
        for change in (
            {"num_heads": 4},
            {"head_dim": 16},
            {"kernel_size": [5, 7]},
            {"dilation": [3, 2]},
            {"scale": 0.17677671},  # the next float32
            {"height": None},
        )
    ]
    ids = [plugin.timing_id, made(driver, SPLIT).timing_id, *changed]
    assert len(set(ids)) == len(ids)


def test_the_inspector_shows_the_attributes(driver: Driver) -> None:
    shown = json.loads(made(driver, width=None).metadata)
    assert shown.pop("scale") == pytest.approx(ATTRIBUTES["scale"], rel=1e-7)
    assert shown == {k: v for k, v in ATTRIBUTES.items() if k not in ("scale", "width")}


# ---- Storing and copying ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PACKED, SPLIT])
@pytest.mark.parametrize("change", [{}, {"height": None, "width": None}])
def test_stored_fields_make_the_same_plugin(
    driver: Driver, name: str, change: dict[str, None]
) -> None:
    plugin = made(driver, name, **change)
    stored = plugin.serialized()
    again = driver.create(name, stored, layer="", phase=RUNTIME)
    assert again is not None
    first, second = values_of(stored), values_of(again.serialized())
    assert first == second
    assert first["layer"] == "levels.0"
    assert first["kernel_size"] == [7, 5]
    assert again.identity == plugin.identity
    assert again.metadata == plugin.metadata
    assert again.output_type(INT8) is None
    assert f"{name} 'levels.0': " in driver.messages()  # still knows its layer


def test_a_damaged_engine_is_refused(driver: Driver) -> None:
    plugin = made(driver)
    fields = plugin.serialized().fields[: plugin.serialized().count]
    fields[0].length = 7
    damaged = FieldCollection(len(fields), (Field * len(fields))(*fields))
    assert driver.create(PACKED, damaged, phase=RUNTIME) is None
    assert "num_heads is 7 int32 values" in driver.messages()


def test_fields_of_tensorrt_itself_are_ignored_in_an_engine(driver: Driver) -> None:
    fields = ATTRIBUTES | {"some_field": 1}
    assert driver.create(PACKED, fields, phase=RUNTIME) is not None
    assert driver.create(PACKED, fields, phase=BUILD) is None


def test_a_clone_outlives_its_original_and_shares_nothing(driver: Driver) -> None:
    plugin = made(driver)
    assert plugin.configure(dynamic(QKV, kind=HALF), dynamic(OUTPUT, kind=HALF))
    assert plugin.change_shape(tensor(QKV, HALF), tensor(OUTPUT, HALF))
    copies = [plugin.clone(), plugin.attach()]
    before = values_of(plugin.serialized())
    for copy in copies:
        assert copy.tactics() == plugin.tactics()
        assert copy.set_tactic(PORTABLE)
    assert plugin.enqueue([64], 128)
    del plugin
    for copy in copies:
        assert values_of(copy.serialized()) == before
        assert copy.enqueue([64], 128)
    assert [launch.tactic for launch in driver.launches()] == [TILE8, PORTABLE, PORTABLE]


# ---- Running ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_rpb", [False, True])
@pytest.mark.parametrize(("kind", "code"), [(FLOAT, 0), (HALF, 1), (BF16, 2)])
def test_a_packed_problem_reaches_the_kernel(
    driver: Driver, kind: int, code: int, with_rpb: bool
) -> None:
    plugin = made(driver)
    tensors = [tensor(QKV, kind), *([tensor(RPB, kind)] if with_rpb else []), tensor(OUTPUT, kind)]
    assert plugin.change_shape(*tensors)
    assert plugin.enqueue([4096, 512][: 1 + with_rpb], 8192, stream=77)
    (launch,) = driver.launches()
    problem, operands = launch.problem, launch.operands
    assert (problem.batch, list(problem.size)) == (4, [28, 30])
    assert (problem.heads, problem.head_dim, problem.type) == (2, 32, code)
    assert (list(problem.kernel_size), list(problem.dilation)) == ([7, 5], [2, 3])
    assert problem.scale == pytest.approx(ATTRIBUTES["scale"], rel=1e-7)
    strides = problem.input
    assert (strides.batch, strides.row, strides.column, strides.head) == (
        28 * 30 * 192,
        5760,
        192,
        32,
    )
    strides = problem.output
    assert (strides.batch, strides.row, strides.column, strides.head) == (
        28 * 30 * 64,
        1920,
        64,
        32,
    )
    block = 64 * (4 if kind == FLOAT else 2)
    assert (operands.query, operands.key, operands.value) == (4096, 4096 + block, 4096 + 2 * block)
    assert (operands.rpb, operands.output) == (512 if with_rpb else None, 8192)
    assert launch.stream == 77


@pytest.mark.parametrize("with_rpb", [False, True])
def test_a_split_problem_reaches_the_kernel(driver: Driver, with_rpb: bool) -> None:
    plugin = made(driver, SPLIT)
    inputs = [tensor(PART, HALF)] * 3 + ([tensor(RPB, HALF)] if with_rpb else [])
    assert plugin.change_shape(*inputs, tensor(PART, HALF))
    assert plugin.enqueue([1000, 2000, 3000, 4000][: 3 + with_rpb], 5000)
    (launch,) = driver.launches()
    operands = launch.operands
    assert (operands.query, operands.key, operands.value) == (1000, 2000, 3000)
    assert (operands.rpb, operands.output) == (4000 if with_rpb else None, 5000)
    for strides in (launch.problem.input, launch.problem.output):
        assert (strides.row, strides.column, strides.head) == (30 * 64, 64, 32)


def test_enqueue_asks_nothing_of_the_gpu_but_to_launch(driver: Driver) -> None:
    plugin = made(driver)
    assert plugin.set_tactic(PORTABLE)
    assert plugin.change_shape(tensor(QKV, HALF), tensor(OUTPUT, HALF))
    asked = driver.lib.gpuQuestions()
    for _ in range(3):
        assert plugin.enqueue([64], 128)
    assert driver.lib.gpuQuestions() == asked
    assert len(driver.launches()) == 3


def test_a_tactic_set_after_the_shape_is_prepared_too(driver: Driver) -> None:
    plugin = made(driver)
    assert plugin.change_shape(tensor(QKV, HALF), tensor(OUTPUT, HALF))
    assert plugin.set_tactic(PORTABLE)
    assert plugin.enqueue([64], 128)  # the stand-in refuses kernels that are not prepared
    assert [launch.tactic for launch in driver.launches()] == [PORTABLE]


@pytest.mark.parametrize("tactic", [0, GROUP, 77, -3])
def test_a_tactic_that_cannot_do_the_shape_gives_way_to_the_heuristic(
    driver: Driver, tactic: int
) -> None:
    plugin = made(driver)
    assert plugin.set_tactic(tactic)
    assert plugin.change_shape(tensor(QKV, HALF), tensor(OUTPUT, HALF))
    assert plugin.enqueue([64], 128)
    assert [launch.tactic for launch in driver.launches()] == [TILE8]


def test_an_empty_batch_runs(driver: Driver) -> None:
    plugin = made(driver)
    empty, output = [0, *QKV[1:]], [0, *OUTPUT[1:]]
    assert plugin.change_shape(tensor(empty, HALF), tensor(output, HALF))
    assert plugin.enqueue([0], 0)
    (launch,) = driver.launches()
    assert launch.problem.batch == 0


def test_offsets_beyond_2_to_the_31_are_counted_in_64_bits(driver: Driver) -> None:
    plugin = made(driver, height=None, width=None)
    sizes = [3, 8192, 4096]  # 3 * 2^25 tokens of 192 channels: 1.9e10 elements
    assert plugin.change_shape(tensor([*sizes, 192], HALF), tensor([*sizes, 64], HALF))
    assert plugin.enqueue([64], 128)
    (launch,) = driver.launches()
    assert launch.problem.input.batch == 8192 * 4096 * 192 > 2**31
    assert launch.problem.output.batch == 8192 * 4096 * 64 == 2**31


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([tensor([4, 13, 30, 192]), tensor([4, 13, 30, 64])], "qkv has shape [4, 13, 30, 192]"),
        ([tensor(QKV), tensor([2, 13, 13]), tensor(OUTPUT)], "rpb has shape [2, 13, 13]"),
        ([tensor(QKV), tensor([4, 28, 30, 192])], "output has shape [4, 28, 30, 192]; expected [4"),
        ([tensor(QKV, INT8), tensor(OUTPUT, INT8)], "qkv is int8"),
        ([tensor(QKV, HALF), tensor(OUTPUT, FLOAT)], "output is float32"),
        ([tensor([-1, 28, 30, 192]), tensor([-1, 28, 30, 64])], "a shape is not known"),
        ([tensor(OUTPUT)], "there are 0 inputs"),
    ],
)
def test_a_wrong_shape_at_run_time_is_refused_and_nothing_launched(
    driver: Driver, tensors: list[Any], said: str
) -> None:
    plugin = made(driver)
    assert plugin.change_shape(tensor(QKV), tensor(OUTPUT))
    assert not plugin.change_shape(*tensors)
    assert said in driver.messages()
    assert not plugin.enqueue([64], 128)
    assert driver.launches() == []


def test_without_a_gpu_only_running_fails(driver: Driver) -> None:
    driver.gpu(device=NO_DRIVER)
    plugin = made(driver)
    assert plugin.set_tactic(0)
    assert plugin.change_shape(tensor(QKV), tensor(OUTPUT))
    assert driver.messages() == ""
    assert not plugin.enqueue([64], 128)
    assert "there is no CUDA device; run the engine on a machine with a GPU" in driver.messages()
    assert driver.launches() == []


def test_a_plugin_without_code_for_the_gpu_says_so(driver: Driver) -> None:
    driver.gpu(prepare=NO_KERNEL_IMAGE)
    plugin = made(driver)
    assert not plugin.change_shape(tensor(QKV), tensor(OUTPUT))
    said = "kernel portable cannot be loaded: no kernel image is available; build the plugin for"
    assert said in driver.messages()


def test_a_failed_launch_is_an_error(driver: Driver) -> None:
    plugin = made(driver)
    driver.gpu(launch=NO_KERNEL_IMAGE)
    assert plugin.change_shape(tensor(QKV), tensor(OUTPUT))
    assert not plugin.enqueue([64], 128)
    assert "kernel portable cannot be launched: no kernel image" in driver.messages()


def test_enqueue_before_any_shape_is_an_error(driver: Driver) -> None:
    assert not made(driver).enqueue([64], 128)
    assert driver.messages() != ""


# ---- Messages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tensorrt", "logger"), [(10, "old"), (11, "new")])
def test_messages_go_to_the_logger_of_either_tensorrt(
    driver: Driver, tensorrt: int, logger: str
) -> None:
    driver.log_through(tensorrt)
    assert driver.create(PACKED, {}) is None
    assert driver.messages().startswith(f"{logger} 1 {PACKED} 'levels.0': attribute num_heads")


@pytest.mark.parametrize(
    ("tensorrt", "with_logger"), [(10, False), (11, False), (0, True), (-1, True)]
)
def test_without_a_logger_messages_go_to_stderr(
    driver: Driver, tensorrt: int, with_logger: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    driver.log_through(tensorrt, with_logger)
    assert driver.create(PACKED, {}) is None
    assert driver.messages() == ""
    assert f"{PACKED} 'levels.0': attribute num_heads is missing" in capfd.readouterr().err
