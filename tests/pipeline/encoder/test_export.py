"""Export to the Hub, as a hub on this machine sees it: one repository, one commit with every file."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.export import ExportConfig, push_to_hub, run


class Hub(BaseHTTPRequestHandler):
    """Answers what an upload asks and keeps what it sent."""

    seen: ClassVar[list[tuple[str, bytes]]] = []
    full = False

    def do_POST(self):
        body = self._body()
        Hub.seen.append((self.path, body))
        address = f"http://127.0.0.1:{self.server.server_port}/user/model"
        if Hub.full:
            self._answer({"error": "quota of user is used up"}, 403)
        elif self.path.endswith("/create"):
            self._answer({"url": address, "id": "user/model"})
        elif "/preupload/" in self.path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self._answer({"files": [file | {"shouldIgnore": False} for file in files]})
        else:
            self._answer({"commitUrl": f"{address}/commit/1", "commitOid": "1" * 40, "pullRequestUrl": None})

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, value: object, code: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import huggingface_hub

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    huggingface_hub.close_session()
    Hub.seen, Hub.full = [], False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    huggingface_hub.close_session()


def test_an_upload_is_one_private_repository_and_one_commit(hub: str, tmp_path: Path, minilm: str):
    Encoder.load(EncoderConfig(layers=1, dtype="float32"), "cpu").save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    address = push_to_hub(str(tmp_path / "model"), "user/model", private=True, endpoint=hub)
    assert address == f"{hub}/user/model/commit/1"
    paths = [path for path, _ in Hub.seen]
    assert paths[0] == "/api/repos/create" and paths[-1] == "/api/models/user/model/commit/main"
    assert json.loads(Hub.seen[0][1])["visibility"] == "private"
    lines = [json.loads(line) for line in Hub.seen[-1][1].splitlines()]
    sent = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
    assert {"modules.json", "config.json", "1_Pooling/config.json", "tokenizer.json"} <= set(sent)
    assert base64.b64decode(sent["model.safetensors"]) == b"weights"


def test_what_a_hub_refuses_is_one_line(hub: str, tmp_path: Path):
    Hub.full = True
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"push user/model: .*quota of user is used up"):
        push_to_hub(str(tmp_path), "user/model", private=False, endpoint=hub)


def test_an_export_is_local_unless_a_name_is_given(hub: str, tmp_path: Path, minilm: str):
    Encoder.load(EncoderConfig(layers=1, dtype="float32"), "cpu").save(tmp_path / "model")
    out = run(validate(ExportConfig, {"model": str(tmp_path / "model"), "to": [], "endpoint": hub}))
    assert out == str(tmp_path / "model") and Hub.seen == []
