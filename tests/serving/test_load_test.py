"""benchmarks/serving.py against a small server that speaks the same protocol."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dinat_deploy.pipeline.running import onnx_session

_SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serving.py"


@pytest.fixture(scope="module")
def serving() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_serving", _SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Handler(BaseHTTPRequestHandler):
    """The v2 protocol for one model, ``tiny``, run by ONNX Runtime one request at a time."""

    protocol_version = "HTTP/1.1"
    session: Any
    turn = threading.Lock()
    served = 0
    offset = 0.0

    def do_GET(self) -> None:
        found: dict[str, dict[str, Any]] = {
            "/v2": {"name": "triton", "version": "0"},
            "/v2/models/tiny": {
                "platform": "onnxruntime_onnx",
                "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 3, 64, 64]}],
            },
            "/v2/models/tiny/stats": {
                "model_stats": [
                    {"inference_count": Handler.served, "execution_count": Handler.served}
                ]
            },
        }
        if self.path not in found:
            self.answer(404, b'{"error":"unknown model"}')
            return
        self.answer(200, json.dumps(found[self.path]).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        header = int(self.headers["Inference-Header-Content-Length"])
        (asked,) = json.loads(body[:header])["inputs"]
        data = body[header:]
        assert len(data) == asked["parameters"]["binary_data_size"]
        with Handler.turn:
            image = np.frombuffer(data, np.float32).reshape(asked["shape"])
            logits = Handler.session.run({"image": image})["logits"] + np.float32(Handler.offset)
            Handler.served += 1
        content = logits.tobytes()
        output = {
            "name": "logits", "datatype": "FP32", "shape": list(logits.shape),
            "parameters": {"binary_data_size": len(content)},
        }  # fmt: skip
        head = json.dumps({"outputs": [output]}).encode()
        self.answer(200, head + content, len(head))

    def answer(self, status: int, content: bytes, header: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if header is not None:
            self.send_header("Inference-Header-Content-Length", str(header))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url(batched_bundle: Path) -> Iterator[str]:
    Handler.session = onnx_session(batched_bundle / "model.onnx", True, threads=1)
    Handler.served, Handler.offset = 0, 0.0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run(serving: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["serving.py", *map(str, words)])
    serving.main()


def test_a_load_is_measured_beside_onnx_runtime(
    serving: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    batched_bundle: Path,
    tmp_path: Path,
) -> None:
    run(
        serving, monkeypatch, "tiny", "--url", url, "--bundle", batched_bundle, "--clients", "1,3",
        "--seconds", 0.1, "--threads", 1, "--json", tmp_path / "a.json",
        "--markdown", tmp_path / "a.md",
    )  # fmt: skip
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["compared"] == {"requests": 8, "max_abs_difference": 0.0, "agree": 8}
    rows = {(row["where"], row["clients"]): row for row in found["results"]}
    assert set(rows) == {
        ("in process, batch 1", 1), ("in process, batch 8", 1), ("server", 1), ("server", 3),
    }  # fmt: skip
    for row in rows.values():
        assert 0 < row["p50"] <= row["p90"] <= row["p99"]
        assert row["images_per_second"] > 0
    assert rows["server", 3]["mean_batch"] == 1.0
    answered = sum(row["requests"] for (where, _), row in rows.items() if where == "server")
    assert 0 < answered <= Handler.served - 8  # those of the comparison
    table = (tmp_path / "a.md").read_text()
    assert table.count("\n| server |") == 2


def test_other_outputs_are_told(
    serving: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    batched_bundle: Path,
    tmp_path: Path,
) -> None:
    Handler.offset = 0.5
    run(
        serving, monkeypatch, "tiny", "--url", url, "--bundle", batched_bundle, "--clients", "1",
        "--seconds", 0.05, "--threads", 1, "--json", tmp_path / "a.json",
    )  # fmt: skip
    compared = json.loads((tmp_path / "a.json").read_text())["compared"]
    assert compared["max_abs_difference"] == pytest.approx(0.5, rel=1e-3)


def test_a_server_that_does_not_answer_is_no_traceback(
    serving: ModuleType, monkeypatch: pytest.MonkeyPatch, url: str, batched_bundle: Path
) -> None:
    words = ("--bundle", batched_bundle, "--seconds", 0.1)
    with pytest.raises(SystemExit, match="HTTP 404"):
        run(serving, monkeypatch, "other", "--url", url, *words)
    with pytest.raises(SystemExit, match="does not answer"):
        run(serving, monkeypatch, "tiny", "--url", "http://127.0.0.1:9", *words)


def test_strings_come_back_as_they_were(serving: ModuleType) -> None:
    body, header = serving.request_of("images", "BYTES", [1, 1], b"\xff\xd8picture")
    asked = json.loads(body[:header])["inputs"][0]
    assert asked["parameters"]["binary_data_size"] == len(body) - header
    assert list(serving._strings(body[header:])) == [b"\xff\xd8picture"]
