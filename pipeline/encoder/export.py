"""Export a model directory: graphs for other runtimes beside its weights, or an upload to the Hugging Face Hub."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.core.config import JobConfig
from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.encoder import token_batches
from pipeline.encoder.backends import onnx, openvino, openvino_int8
from pipeline.encoder.backends.runtime import Batch
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.encoder.servers import TITLES, check_server
from pipeline.storage import shards
from pipeline.storage.files import download_folder, join, new_folder
from pipeline.storage.vectors import not_blank

FILES = {"onnx": onnx.FILE, "openvino": openvino.FILE, "int8": openvino.INT8_FILE}
_CALIBRATION_TOKENS = 4096  # of a batch


class ExportConfig(JobConfig):
    """Write graphs of a model for ONNX Runtime and OpenVINO, int8 among them, or upload it to the Hugging Face Hub."""

    common_settings = ("model", "out", "to", "input", "text_column", "calibration_rows", "push", "servers")
    documentation = "pipeline/README.md"

    model: str | None = Field(None, description="model directory; default {run}/model")
    out: str | None = Field(None, description="where the directory with the graphs goes; default: into the model's own")
    to: list[Literal["onnx", "openvino", "int8"]] = Field(["onnx"], description="graphs to make")
    input: str | None = Field(None, description="texts that int8 is calibrated on: Parquet, JSON lines, CSV or text")
    text_column: str = "text"
    calibration_rows: int = Field(256, ge=8, description="texts that int8 is calibrated on, spread over the input")
    min_cosine: float = Field(
        0.9995, gt=0, le=1, description="of calibration texts to float32; the layers that cost most stay as they are"
    )
    threads: int = Field(2, ge=1)
    push: str | None = Field(None, description="name on the Hugging Face Hub to upload to, such as user/model")
    private: bool = Field(True, description="whether a repository that the upload makes is private")
    endpoint: str | None = Field(None, description="another hub than huggingface.co")
    servers: list[Literal["tei", "vllm"]] = Field(
        [], description="say whether Text Embeddings Inference or vLLM would give the model's vectors; else exit with 2"
    )


def run(config: ExportConfig) -> str:
    """Write the graphs that the settings name and return the directory that holds them.

    `onnx/model.onnx` and `openvino/openvino_model.xml` are where Sentence Transformers' backends of these names look
    for them; `openvino/openvino_model_int8.xml` is what `encoder.dtype: int8` takes. Raises UserError for a static
    model, for int8 without texts, where a package is missing, and for an architecture that a format does not take or
    whose graph gives other vectors than torch.
    """
    model = config.model or join(config.run, "model")
    encoder = Encoder.load(EncoderConfig(model=model, dtype="float32"), "cpu")
    if encoder.transformer.config.model_type == "static" and config.to:
        raise UserError(f"export {model}: a static model has no graph; give --to '[]' to upload it alone")
    if "int8" in config.to and not config.input:
        raise UserError("export to int8: needs texts to calibrate on; give --input")
    out = config.out or encoder.path
    if config.out:
        with new_folder(config.out) as folder:
            shutil.copytree(encoder.path, folder, dirs_exist_ok=True)
            _write_graphs(config, encoder, folder)
    else:
        _write_graphs(config, encoder, Path(out))
    _check_servers(config.servers, encoder.path)
    if config.push:
        local = download_folder(out) if "://" in out else out
        push_to_hub(local, config.push, private=config.private, endpoint=config.endpoint)
    return out


def _check_servers(names: Sequence[str], path: str) -> None:
    """Say what servers take; raises UserError where one would refuse the directory or give other vectors."""
    reasons = {TITLES[name]: check_server(name, path) for name in names}
    for title in (title for title, against in reasons.items() if not against):
        say(f"export: {path}: {title} reads all of it, by its code; not run here")
    if against := [f"{title}: {'; '.join(texts)}" for title, texts in reasons.items() if texts]:
        raise UserError(f"export {path}: {'. '.join(against)}")


def _write_graphs(config: ExportConfig, encoder: Encoder, folder: Path) -> None:
    for form in config.to:
        path = folder / FILES[form]
        path.parent.mkdir(exist_ok=True)
        try:
            _write_graph(config, encoder, form, path)
        except UserError:
            raise
        except Exception as error:  # whatever a converter raises for an architecture that it does not know
            kind, reason = encoder.transformer.config.model_type, " ".join(str(error).split())[:200]
            raise UserError(f"export to {form}: does not take models of type {kind}: {reason}") from error
        if form != "int8":
            _require_agreement(form, folder, path, config.threads)
        say(f"export: {path}")


def _write_graph(config: ExportConfig, encoder: Encoder, form: str, path: Path) -> None:
    names = openvino.input_names(encoder.transformer, encoder.tokenizer)
    if form == "onnx":
        onnx.export(encoder.transformer, names, path)
        return
    graph = openvino.convert(encoder.transformer, names)
    if form == "int8":
        graph = _quantize(config, encoder, graph)
    openvino.import_openvino().save_model(graph, str(path), compress_to_fp16=False)


def _require_agreement(form: Literal["onnx", "openvino"], folder: Path, path: Path, threads: int) -> None:
    """Remove a graph and raise UserError where its vectors are not torch's: others who load it would not be told."""
    settings = EncoderConfig(model=str(folder), dtype="float32", backend=form)
    if Encoder.load(settings, "cpu").use_runtime(threads).runtime is None:
        for file in path.parent.glob(f"{path.stem}.*"):
            file.unlink()
        raise UserError(f"export to {form}: the graph does not compute this model, as is said above; it is not kept")


def _quantize(config: ExportConfig, encoder: Encoder, graph: object) -> object:
    batches = list(_calibration_batches(config, encoder))
    result = openvino_int8.quantize(graph, batches, encoder.pool_states, config.threads, config.min_cosine)
    say(
        f"export: {result.quantized} of {result.linear_layers} linear layers in int8, calibrated on {config.input}: "
        f"mean cosine {result.cosine:.5f}"
    )
    model: object = result.model
    return model


def _calibration_batches(config: ExportConfig, encoder: Encoder) -> Iterator[Batch]:
    """Padded batches of texts that are spread over the input."""
    plan = shards.plan(shards.find_files(str(config.input)), config.calibration_rows, "")
    texts: list[str] = []
    chosen = shards.spread(len(plan), shards.SAMPLED_SHARDS)
    for index in chosen:
        table = shards.read(plan[index], [config.text_column])
        column = shards.string_column(table, config.text_column, plan[index].path)
        texts += column.filter(not_blank(column)).slice(0, -(-config.calibration_rows // len(chosen))).to_pylist()
    if not texts:
        raise UserError(f"{config.input}: holds no text in column '{config.text_column}' to calibrate on")
    tokens = encoder.tokenize(texts, "document")
    for batch in token_batches.padded_batches([len(row) for row in tokens], _CALIBRATION_TOKENS):
        yield token_batches.pad_rows([tokens[row] for row in batch], encoder.tokenizer.pad_token_id or 0)


def push_to_hub(path: str, name: str, *, private: bool, endpoint: str | None = None) -> str:
    """Upload a model directory to the Hub, in one commit; returns its address.

    The token is the one that `hf auth login` keeps, or HF_TOKEN. Raises UserError with what the hub answered.
    """
    from huggingface_hub import HfApi

    hub = HfApi(endpoint=endpoint)
    try:
        hub.create_repo(name, private=private, exist_ok=True)
        commit = hub.upload_folder(repo_id=name, folder_path=path, commit_message="Upload by Tripletail")
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"push {name}: {reason or type(error).__name__}") from error
    say(f"export: {commit.commit_url}")
    return str(commit.commit_url)
