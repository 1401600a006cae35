"""Models that bring code of their own: refused by name, run where it is allowed, fetched from a hub with their code."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from tests.support import zoo
from tests.support.checkout import ROOT
from tests.support.loop import make_parts
from tests.support.ranks import run_ranks
from training.loop.step import LoopConfig, TrainStep
from training.losses.gather import world
from training.losses.infonce import InfoNCE

pytest.importorskip("sentence_transformers")
OWN_MODULE = """from sentence_transformers.models import Transformer as Base


class Transformer(Base):
    def forward(self, features, **kwargs):
        features = super().forward(features, **kwargs)
        features["token_embeddings"] = features["token_embeddings"].cumsum(1)
        return features
"""
OWN_MODEL = """from transformers import BertModel


class OwnModel(BertModel):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state.cumsum(1)
        return output
"""


def theirs(path: Path | str, texts: list[str]) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(path), device="cpu", trust_remote_code=True).encode(texts)


def nearest(ours: np.ndarray, other: np.ndarray) -> float:
    """The lowest cosine of two sets of vectors."""
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(other, axis=1)
    return float((np.einsum("nd,nd->n", ours, other) / lengths).min())


def own_module(folder: Path) -> Path:
    """A model whose first module only shares its last name with a known one."""
    path = zoo.LAYOUTS["bert, mean"](folder)
    (path / "custom_st.py").write_text(OWN_MODULE)
    modules = json.loads((path / "modules.json").read_text())
    modules[0]["type"] = "custom_st.Transformer"
    (path / "modules.json").write_text(json.dumps(modules))
    return path


def own_model(folder: Path) -> Path:
    """A model whose transformer is a class of its own."""
    path = zoo.LAYOUTS["bert, mean"](folder)
    (path / "modeling_own.py").write_text(OWN_MODEL)
    zoo.edit(path / "config.json", auto_map={"AutoModel": "modeling_own.OwnModel"}, architectures=["OwnModel"])
    return path


def test_a_module_that_only_shares_a_name_is_refused_by_its_full_one(tmp_path):
    with pytest.raises(UserError, match=r"custom_st\.Transformer.*trust_remote_code"):
        Encoder.load(EncoderConfig(model=str(own_module(tmp_path))), "cpu")


def test_an_own_module_runs_where_that_is_allowed_and_is_saved_with_its_code(tmp_path):
    path = own_module(tmp_path / "made")
    encoder = Encoder.load(EncoderConfig(model=str(path), trust_remote_code=True, dtype="float32"), "cpu")
    vectors = encoder.encode(zoo.TEXTS, "document")
    assert nearest(vectors, theirs(path, zoo.TEXTS)) > 0.99999
    assert nearest(vectors, theirs(zoo.LAYOUTS["bert, mean"](tmp_path / "plain"), zoo.TEXTS)) < 0.999, (
        "the code does something"
    )
    encoder.save(str(tmp_path / "saved"))
    assert nearest(vectors, theirs(tmp_path / "saved", zoo.TEXTS)) > 0.99999


def test_a_transformer_of_its_own_runs_where_that_is_allowed_and_else_it_is_said(tmp_path, capsys):
    path = own_model(tmp_path)
    plain = Encoder.load(EncoderConfig(model=str(path), dtype="float32"), "cpu").encode(zoo.TEXTS, "document")
    assert f"model {path}: its own code (modeling_own.OwnModel) is not run, transformers' bert computes" in said(capsys)
    assert nearest(plain, theirs(path, zoo.TEXTS)) < 0.999, "the code does something"
    encoder = Encoder.load(EncoderConfig(model=str(path), trust_remote_code=True, dtype="float32"), "cpu")
    assert nearest(encoder.encode(zoo.TEXTS, "document"), theirs(path, zoo.TEXTS)) > 0.99999


def said(capsys) -> str:
    output = capsys.readouterr()
    return output.out + output.err


OWN_PART = """from transformers import BertModel
import torch


class OwnModel(BertModel):
    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.unused = torch.nn.Linear(3, 3)
"""


def train_two_steps(paths: list[str], folder: str) -> dict[str, list[float]]:
    """Losses of two steps by model; rank 0 saves."""
    losses = {}
    for number, path in enumerate(paths):
        config = EncoderConfig(model=path, trust_remote_code=True, dtype="float32")
        encoder = Encoder.load(config, "cpu", to_train=True)
        settings = LoopConfig(batch_size=8, max_steps=2, learning_rate=1e-3, dropout=0.0, precision="float32")
        step = TrainStep(encoder, InfoNCE(), make_parts(12, 12)[1], settings)
        losses[str(number)] = [step.step(step.load_batch(ref), index)["loss"] for index, ref in step.plan(0)]
        if world()[0] == 0:
            encoder.save(Path(folder) / str(number))
    return losses


def test_models_with_code_train_on_two_ranks_as_on_one(tmp_path, minilm):
    """Also where the code has parameters that no vector depends on, and whose gradients ranks would wait for."""
    with_part = own_model(tmp_path / "part")
    (with_part / "modeling_own.py").write_text(OWN_PART)
    weights = load_file(with_part / "model.safetensors")
    weights |= {"unused.weight": torch.ones(3, 3), "unused.bias": torch.ones(3)}
    save_file(weights, with_part / "model.safetensors", metadata={"format": "pt"})
    paths = [str(own_module(tmp_path / "module")), str(own_model(tmp_path / "model")), str(with_part)]
    alone = train_two_steps(paths, str(tmp_path / "alone"))
    together = run_ranks(2, train_two_steps, paths, str(tmp_path / "together"))[0]
    for number, path in enumerate(paths):
        np.testing.assert_allclose(together[str(number)], alone[str(number)], rtol=1e-3)
        saved = [theirs(tmp_path / name / str(number), zoo.TEXTS) for name in ("alone", "together")]
        assert nearest(*saved) > 0.9999 and np.abs(saved[0] - theirs(path, zoo.TEXTS)).max() > 1e-4


class Hub:
    """A hub of one model, `acme/tiny`, with a revision of each folder."""

    def __init__(self, revisions: dict[str, Path]) -> None:
        self.files = {
            hashlib.sha1(name.encode()).hexdigest(): {
                str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
            }
            for name, folder in revisions.items()
        }
        self.commits = {name: hashlib.sha1(name.encode()).hexdigest() for name in revisions}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.split("?")[0]
        parts = path.strip("/").split("/")
        if path.startswith("/api/models/acme/tiny"):
            name = (
                parts[parts.index("revision") + 1] if "revision" in parts else parts[5] if "tree" in parts else "main"
            )
            commit = self.commits.get(name, name)
            files = self.files[commit]
            rows = [
                {"rfilename": n, "path": n, "type": "file", "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for n, body in files.items()
            ]
            about = {"_id": "1", "id": "acme/tiny", "modelId": "acme/tiny", "sha": commit, "siblings": rows}
            about |= {"private": False, "tags": [], "downloads": 0, "likes": 0}
            return self.send(request, json.dumps(rows if "tree" in parts else about).encode(), {})
        commit = self.commits.get(parts[3], parts[3])
        name = "/".join(parts[4:])
        body = self.files[commit].get(name)
        if body is None:
            return request.send_error(404)
        self.asked.append(name)
        return self.send(request, body, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": commit})

    def send(self, request: BaseHTTPRequestHandler, body: bytes, headers: dict[str, str]) -> None:
        request.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)


LOAD = """
import json, sys
from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
try:
    encoder = Encoder.load(EncoderConfig(model="acme/tiny", dtype="float32", **json.loads(sys.argv[1])), "cpu")
    print(json.dumps(encoder.encode(["wireless headphones"], "document").tolist()))
except UserError as error:
    sys.exit(f"refused: {error}")
"""


def load_from(hub: Hub, cache: Path, **settings) -> subprocess.CompletedProcess[str]:
    """Load the hub's model in a process of its own, since the library reads the hub's address when it is imported."""
    address = f"http://127.0.0.1:{hub.server.server_port}"
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", LOAD, json.dumps(settings)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, cwd=cache.parent)


def vectors_of(run: subprocess.CompletedProcess[str]) -> np.ndarray:
    return np.array(json.loads(run.stdout.splitlines()[-1]))


def test_a_hub_model_comes_with_its_code_and_at_its_revision(tmp_path):
    first, second = own_model(tmp_path / "one"), zoo.LAYOUTS["bge: roberta, cls"](tmp_path / "two")
    hub = Hub({"main": first, "v2": second})
    plain = load_from(hub, tmp_path / "cache0")
    assert plain.returncode == 0 and "modeling_own.py" not in hub.asked
    assert "its own code (modeling_own.OwnModel) is not run" in plain.stderr
    run = load_from(hub, tmp_path / "cache1", trust_remote_code=True)
    assert run.returncode == 0, run.stderr
    assert nearest(vectors_of(run), theirs(first, ["wireless headphones"])) > 0.99999
    other = load_from(hub, tmp_path / "cache2", revision="v2")
    assert other.returncode == 0, other.stderr
    assert nearest(vectors_of(other), theirs(second, ["wireless headphones"])) > 0.99999
    hub.server.shutdown()


def test_a_hub_model_brings_the_bin_weights_of_the_modules_that_have_no_others(tmp_path):
    model = zoo.LAYOUTS["LaBSE"](tmp_path / "one")
    weights = model / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    weights.unlink()
    hub = Hub({"main": model})
    run = load_from(hub, tmp_path / "cache")
    assert run.returncode == 0, run.stderr
    assert nearest(vectors_of(run), theirs(model, ["wireless headphones"])) > 0.99999
    assert "2_Dense/pytorch_model.bin" in hub.asked and "pytorch_model.bin" not in hub.asked
    hub.server.shutdown()
