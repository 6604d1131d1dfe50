"""A load test of a packaged model on a running Triton, beside ONNX Runtime in this process.

    dinat-deploy package out/dinat_mini -o serve && serve/start.sh
    python benchmarks/serving.py dinat_mini --bundle out/dinat_mini --clients 1,2,4,8

It speaks the HTTP v2 protocol over one connection for each client, with binary tensors and one
image a request; each client asks again as soon as it has its answer. First the server's outputs are
compared with those of ONNX Runtime in this process for the same inputs. The latencies are those of
whole requests as the client sees them; the mean batch is what the server says that it ran. Server,
clients and ONNX Runtime share this machine's cores unless --url is elsewhere: read the numbers so.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dinat_deploy.bundle import open_bundle
from dinat_deploy.measurement.environment import describe
from dinat_deploy.pipeline.running import onnx_session

Array = np.ndarray[Any, Any]
_TYPES = {
    "FP32": np.float32,
    "FP16": np.float16,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
}
_PERCENTILES = (50, 90, 99)


class Server:
    """One connection to a server; not to be shared between threads."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url if "//" in url else f"//{url}")
        self._connection = http.client.HTTPConnection(
            place.hostname or "", place.port or 8000, timeout=60
        )

    def json(self, path: str) -> dict[str, Any]:
        self._connection.request("GET", path)
        return json.loads(self._answer()[0])

    def infer(self, model: str, body: bytes, header: int) -> dict[str, Array]:
        """Outputs by name, strings as bytes."""
        headers = {
            "Inference-Header-Content-Length": str(header),
            "Content-Type": "application/octet-stream",
        }
        self._connection.request("POST", f"/v2/models/{model}/infer", body, headers)
        content, length = self._answer()
        return dict(_tensors(content, length))

    def _answer(self) -> tuple[bytes, int]:
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"HTTP {answer.status}: {content[:300].decode(errors='replace')}")
        return content, int(answer.headers.get("Inference-Header-Content-Length", len(content)))


def _tensors(content: bytes, header: int) -> Iterator[tuple[str, Array]]:
    position = header
    for output in json.loads(content[:header])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        data = content[position : position + size]
        position += size
        if output["datatype"] == "BYTES":
            yield output["name"], np.array(list(_strings(data)), object).reshape(output["shape"])
        else:
            yield (
                output["name"],
                np.frombuffer(data, _TYPES[output["datatype"]]).reshape(output["shape"]),
            )


def _strings(data: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "little")
        yield data[position + 4 : position + 4 + size]
        position += 4 + size


def request_of(name: str, datatype: str, shape: list[int], content: bytes) -> tuple[bytes, int]:
    """Body of a request with one input, and the length of its JSON; outputs come back binary."""
    if datatype == "BYTES":
        content = len(content).to_bytes(4, "little") + content
    tensor = {
        "name": name,
        "shape": shape,
        "datatype": datatype,
        "parameters": {"binary_data_size": len(content)},
    }
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return header + content, len(header)


@dataclass(frozen=True)
class Result:
    """One load. Times in milliseconds; ``mean_batch`` is None where the server does not tell."""

    where: str
    clients: int
    images_per_second: float
    p50: float
    p90: float
    p99: float
    mean_batch: float | None
    requests: int


def summary(
    where: str, clients: int, seconds: list[float], wall: float, images: int, batch: float | None
) -> Result:
    p50, p90, p99 = np.percentile(np.array(seconds) * 1e3, _PERCENTILES)
    return Result(
        where, clients, images / wall, float(p50), float(p90), float(p99), batch, len(seconds)
    )


def load(
    url: str, model: str, bodies: list[tuple[bytes, int]], clients: int, seconds: float
) -> Result:
    """Ask from several connections at once; the answers that come within some seconds count.

    They begin half a second after the first requests.
    """
    taken: list[list[float]] = [[] for _ in range(clients)]
    failures: list[Exception] = []
    start = time.perf_counter() + 0.5
    end = start + seconds

    def ask(number: int) -> None:
        try:
            server = Server(url)
            turn = number
            while (began := time.perf_counter()) < end:
                server.infer(model, *bodies[turn % len(bodies)])
                turn += 1
                if start <= (done := time.perf_counter()) <= end:
                    taken[number].append(done - began)
        except Exception as error:
            failures.append(error)

    before = counts(url, model)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    after = counts(url, model)
    runs = after[1] - before[1]
    # An ensemble runs nothing itself, and counts its requests.
    ensemble = Server(url).json(f"/v2/models/{model}")["platform"] == "ensemble"
    batch = (after[0] - before[0]) / runs if runs and not ensemble else None
    times = [one for client in taken for one in client]
    if not times:
        raise RuntimeError(f"no request was answered in {seconds:g} seconds; give it more")
    return summary("server", clients, times, seconds, len(times), batch)


def counts(url: str, model: str) -> tuple[int, int]:
    """Images and runs of a model since the server started."""
    found = Server(url).json(f"/v2/models/{model}/stats")["model_stats"][0]
    return found["inference_count"], found["execution_count"]


def in_process(run: Callable[[], Any], batch: int, seconds: float) -> Result:
    """ONNX Runtime, called in turn from one thread."""
    run()
    taken: list[float] = []
    start = time.perf_counter()
    while (began := time.perf_counter()) < start + seconds:
        run()
        taken.append(time.perf_counter() - began)
    wall = time.perf_counter() - start
    return summary(f"in process, batch {batch}", 1, taken, wall, batch * len(taken), float(batch))


@contextmanager
def shown(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr: call what it gives before each part."""
    columns = (
        TextColumn("{task.description:<40}"),
        *Progress.get_default_columns()[1:3],
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda name: bar.update(task, description=name, advance=1)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    server = Server(arguments.url)
    about, meta = server.json("/v2"), server.json(f"/v2/models/{arguments.model}")
    one = meta["inputs"][0]
    bundle = open_bundle(arguments.bundle)
    path = bundle.path / arguments.file
    session = onnx_session(path, bundle.manifest.graph.body, threads=arguments.threads or 0,
                           **({"custom_op": False} if arguments.no_operators else {}))  # fmt: skip
    pictures = one["datatype"] == "BYTES"
    if pictures:
        bodies, feeds = _pictures(arguments, one, bundle.manifest.preprocessing)
    else:
        bodies, feeds = _images(one, bundle.manifest.graph.inputs[0].name)
    compared = _compare(server, arguments.model, bodies, session, feeds, pictures)
    results = []
    with shown(len(arguments.clients) + 2) as stage:
        stage("ONNX Runtime in this process")
        for batch in (1, 8):
            feed = {name: np.concatenate([array] * batch) for name, array in feeds[0].items()}
            try:
                results.append(
                    in_process(lambda feed=feed: session.run(feed), batch, arguments.seconds)
                )
            except Exception as error:  # a fixed batch
                if batch == 1:
                    raise
                print(f"no batch of {batch} in process: {error}", file=sys.stderr)
        for clients in arguments.clients:
            stage(f"{clients} clients")
            results.append(load(arguments.url, arguments.model, bodies, clients, arguments.seconds))
    return {
        "date": date.today().isoformat(),
        "server": f"{about['name']} {about['version']}",
        "model": arguments.model,
        "in_process": session.name,
        "machine": describe(),
        "compared": compared,
        "seconds": arguments.seconds,
        "results": [asdict(result) for result in results],
    }


def _images(
    one: dict[str, Any], name: str
) -> tuple[list[tuple[bytes, int]], list[dict[str, Array]]]:
    """Eight made-up images of the model's own size."""
    shape = [1, *(int(size) for size in one["shape"][1:])]
    if min(shape) < 1:
        raise SystemExit(
            f"{one['name']} {one['shape']} has a dynamic size; package it with a fixed one."
        )
    dtype, rng = _TYPES[one["datatype"]], np.random.default_rng(0)
    feeds = [{name: rng.standard_normal(shape).astype(np.float32)} for _ in range(8)]
    if one["datatype"] == "UINT8":
        feeds = [{name: rng.integers(0, 256, shape, np.uint8)} for _ in range(8)]
    bodies = [
        request_of(one["name"], one["datatype"], shape, feed[name].astype(dtype).tobytes())
        for feed in feeds
    ]
    return bodies, feeds


def _pictures(
    arguments: argparse.Namespace, one: dict[str, Any], preprocessing: Any
) -> tuple[list[tuple[bytes, int]], list[dict[str, Array]]]:
    from dinat_deploy.models.preprocessing import open_image

    files = [Path(name) for name in arguments.pictures]
    if not files:
        raise SystemExit("This model takes pictures: name some with --pictures.")
    bodies = [request_of(one["name"], "BYTES", [1, 1], file.read_bytes()) for file in files]
    name = open_bundle(arguments.bundle).manifest.graph.inputs[0].name
    return bodies, [{name: preprocessing(open_image(file))[None]} for file in files]


def _compare(
    server: Server,
    model: str,
    bodies: list[tuple[bytes, int]],
    session: Any,
    feeds: list[dict[str, Array]],
    pictures: bool,
) -> dict[str, Any]:
    """The largest difference between the server's outputs and those of this process."""
    worst, same = 0.0, 0
    for body, feed in zip(bodies, feeds, strict=True):
        answer, own = server.infer(model, *body), session.run(feed)
        if pictures and "classes" in answer:
            logits = next(iter(own.values()))
            best = int(logits[0].argmax())
            same += int(answer["classes"][0, 0]) == best
            exact = np.exp(logits[0] - logits[0].max())
            worst = max(
                worst, abs(float(answer["scores"][0, 0]) - float(exact[best] / exact.sum()))
            )
            continue
        for name, array in own.items():
            worst = max(worst, float(np.abs(answer[name].astype(np.float32) - array).max()))
        same += all(answer[name].shape == array.shape for name, array in own.items())
    return {"requests": len(bodies), "max_abs_difference": worst, "agree": same}


def markdown(found: dict[str, Any]) -> str:
    machine, compared = found["machine"], found["compared"]
    lines = [
        f"{found['date']}, {machine['processor']}, {machine['cores']} cores, load "
        f"{machine['load']}; {found['server']}, {found['model']}; {found['in_process']}. Over "
        f"{compared['requests']} requests the server's outputs differ from those in process by "
        f"{compared['max_abs_difference']:.2g} at the most.",
        "",
        "| | clients | images/s | p50 ms | p90 ms | p99 ms | mean batch |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(_row(one)) + " |" for one in found["results"]]
    return "\n".join(lines) + "\n"


def _row(one: dict[str, Any]) -> list[str]:
    batch = "" if one["mean_batch"] is None else f"{one['mean_batch']:.1f}"
    times = [f"{one[name]:.1f}" for name in ("p50", "p90", "p99")]
    return [one["where"], str(one["clients"]), f"{one['images_per_second']:.1f}", *times, batch]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="name of the model on the server")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--bundle", required=True, help="that the model was packaged from")
    parser.add_argument(
        "--file", default="model.onnx", help="of the bundle, for ONNX Runtime in this process"
    )
    parser.add_argument(
        "--clients", type=lambda text: [int(one) for one in text.split(",")], default=[1, 2, 4, 8]
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--threads", type=int, help="of ONNX Runtime in this process")
    parser.add_argument(
        "--no-operators", action="store_true", help="run the operator's body in this process"
    )
    parser.add_argument("--pictures", nargs="*", default=[], help="for a model that takes pictures")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    arguments = parser.parse_args()
    try:
        found = measure(arguments)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise SystemExit(
            f"The server at {arguments.url} does not answer as it should: {error}"
        ) from None
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(markdown(found))
    table = Table("", "clients", "images/s", "p50 ms", "p90 ms", "p99 ms", "mean batch")
    for one in found["results"]:
        table.add_row(*_row(one))
    Console(width=100).print(table)
    print(f"compared: {found['compared']}")


if __name__ == "__main__":
    main()
