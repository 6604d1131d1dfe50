"""Values that no writer of ours would write, and JSON with them in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

# Names of files that no reader has any business with; the guard looks out for them.
OUTSIDE = "outside"
ABSOLUTE = "/tmp/dinat-fuzz-outside"
PLACES = (
    f"../{OUTSIDE}.bin",
    f"../../{OUTSIDE}.npz",
    f"../../../{OUTSIDE}.safetensors",
    f"..\\{OUTSIDE}.bin",
    f"sub/../../{OUTSIDE}.onnx",
    f"{ABSOLUTE}.bin",
    f"{ABSOLUTE}.json",
    "..",
    ".",
    "/",
    "C:\\outside.bin",
    "file:///etc/hostname",
    "~/outside.bin",
)
TEXTS = (
    "",
    " ",
    "\n",
    "x" * 5000,
    "a\0b",
    "\x1b[31m",
    "\ud800",
    "\u202e\u0661\u0662",
    "\U0001d4f3" * 40,
    "\u00e9\u0301" * 100,
    "[bold]x[/nonsense]",
    "{0.__class__} %s %n ${HOME}",
    "fp64",
    "-1",
    "1e5",
    "nan",
    "NaN",
    "None",
    "sha256",
    "image",
    "-m",
    *PLACES,
)
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 7, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63,
    2**64, -(2**63) - 1, 10**30, 0.5, -0.0, 1e-320, 1e38, 1e39, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"": None}, {"type": "x"})


def strange(rng: Random) -> Any:
    """Anything that JSON can hold."""
    pool = rng.choice((TEXTS, NUMBERS, NUMBERS, OTHERS))
    value = copy.deepcopy(rng.choice(pool))
    if rng.random() < 0.1:
        value = [value] * rng.choice((1, 2, 3, 4, 100, 2000))
    elif rng.random() < 0.03:
        value = nested(rng.choice((20, 200)))
    return value


def nested(depth: int) -> list[Any]:
    """Lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def near(rng: Random, value: Any) -> Any:
    """A value of the same type, so that the reader does not stop at the type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        changes: tuple[Any, ...] = (
            value + 1, value - 1, 2 * value, value // 2, -value, 0, value * 1000, 10**9,
            rng.choice(NUMBERS),
        )  # fmt: skip
        return rng.choice(changes)
    if isinstance(value, float):
        return rng.choice((-value, value * 1e3, value / 1e3, 0.0, 1.0, *NUMBERS[-10:]))
    if isinstance(value, str):
        cut = value[: rng.randrange(len(value) + 1)]
        return rng.choice((cut, value + value, value.upper(), value + "x", *PLACES[:3], ""))
    if isinstance(value, list):
        if not value:
            return [strange(rng)]
        kept = [item for item in value if rng.random() < 0.5]
        more = [*value, copy.deepcopy(rng.choice(value))]
        return rng.choice((kept, more, value[::-1], value * 2, value * 50, [], value[:1]))
    return strange(rng)


def _places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in nested lists and objects, in order."""
    items: Any = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))


def mutate_data(rng: Random, data: Any) -> tuple[Any, str]:
    """Change one place in nested plain data.

    Returns:
        The changed copy, and what was done.
    """
    data = copy.deepcopy(data)
    places = list(_places(data)) if isinstance(data, dict | list) else []
    if not places or rng.random() < 0.02:
        return strange(rng), "everything replaced"
    # All levels alike: most places are deep in long lists.
    depth = rng.choice(sorted({len(path) for path in places}))
    path = rng.choice([path for path in places if len(path) == depth])
    holder = data
    for key in path[:-1]:
        holder = holder[key]
    key = path[-1]
    where = ".".join(map(str, path))
    action = rng.random()
    if action < 0.55:
        holder[key] = near(rng, holder[key])
        return data, f"{where} a little changed"
    if action < 0.75:
        holder[key] = strange(rng)
        return data, f"{where} replaced"
    if action < 0.83:
        del holder[key]
        return data, f"{where} removed"
    if action < 0.9:
        other = rng.choice(places)
        value = data
        for step in other:
            value = value[step] if _has(value, step) else None
        holder[key] = copy.deepcopy(value)
        return data, f"{where} is a copy of {'.'.join(map(str, other))}"
    if isinstance(holder, dict):
        name = rng.choice((*TEXTS, key.upper(), key + "_"))
        holder[name] = holder.pop(key) if rng.random() < 0.5 else strange(rng)
        return data, f"{where} renamed, or another beside it"
    holder.insert(rng.randrange(len(holder) + 1), strange(rng))
    return data, f"something put before {where}"


def _has(value: Any, key: Any) -> bool:
    if isinstance(value, dict):
        return key in value
    return isinstance(value, list) and isinstance(key, int) and key < len(value)


def _duplicate_key(rng: Random, text: str) -> str:
    at = [i for i, character in enumerate(text) if character == "{"]
    if not at:
        return text
    place = rng.choice(at) + 1
    key = rng.choice(("format_version", "config", "name", "x", ""))
    return f'{text[:place]}"{key}": {rng.choice(("1", "[]", "{}", "null"))},{text[place:]}'


def _number(rng: Random, text: str) -> str:
    """Digits replaced by what Python's reader takes and JSON does not, or by too many."""
    digits = [i for i, character in enumerate(text) if character.isdigit()]
    if not digits:
        return text
    at = rng.choice(digits)
    other = rng.choice(("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "1" + "0" * 400, "-"))
    return text[:at] + other + text[at + 1 :]


_TEXT_CHANGES: tuple[Callable[[Random, str], str], ...] = (
    _duplicate_key,
    _number,
    _number,
    lambda rng, text: "[" * rng.choice((100, 100_000)) + text,
    lambda rng, text: '{"a":' * rng.choice((100, 100_000)),
    lambda rng, text: "\ufeff" + text,
    lambda rng, text: text + rng.choice(("}", "{}", "\0", "garbage")),
    lambda rng, text: text.replace('"', "'", rng.randrange(1, 5)),
    lambda rng, text: text.replace(":", ": //\n", 1),
    lambda rng, text: rng.choice(("null", "[]", "{}", '""', "0", "true", "{", '"')),
)


def mutate_json(rng: Random, content: bytes) -> tuple[bytes, str]:
    """A JSON file with one or several changes; still JSON, mostly."""
    try:
        data = json.loads(content)
    except ValueError:
        return content, "unchanged"
    said = []
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        data, what = mutate_data(rng, data)
        said.append(what)
    text = json.dumps(data)
    if rng.random() < 0.2:
        text = rng.choice(_TEXT_CHANGES)(rng, text)
        said.append("as text, too")
    return text.encode(errors="surrogatepass"), "; ".join(said)
