"""Published layouts of embedding models, made small with random weights: as their directories stand on the hub.

    path = make("qwen3", folder)  # a directory that SentenceTransformer(path) loads

An architecture is one entry of `FAMILIES`; a layout is one entry of `LAYOUTS`.
"""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WIDTH = 32
TEXTS = [
    "wireless headphones",
    "x",
    "Bluetooth EARBUDS with a charging case. " * 12,
    "running shoes",
    "a red coat, size 42",
    "How long does delivery take?",
    "desk lamp",
] * 2
SIZE = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
GROUPED = {**SIZE, "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.2}
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "<s>", "</s>"]
VOCABULARY = len(SPECIAL) + 2 * 94
LENGTH = 64


def tokenizer(*, lower: bool = True, frame: str = "[CLS] $A [SEP]", side: str = "right", **options: Any) -> Any:
    """A tokenizer of single characters, with the tokens that `frame` puts around a text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [c for c in string.printable if not c.isspace()]
    words = {word: index for index, word in enumerate([*SPECIAL, *letters, *("##" + c for c in letters)])}
    fast = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    if lower:
        fast.normalizer = normalizers.Lowercase()
    used = [(token, words[token]) for token in SPECIAL if token in frame.split()]
    fast.post_processor = processors.TemplateProcessing(single=frame, special_tokens=used)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>"}
    if "[CLS]" in frame:
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, padding_side=side, model_max_length=LENGTH, **{**names, **options}
    )


def _bert(kind: str, **options: Any) -> Callable[[], Any]:
    def make_model() -> Any:
        import transformers

        config = getattr(transformers, f"{kind}Config")(
            **{"vocab_size": VOCABULARY, "initializer_range": 0.2, "pad_token_id": 0, **SIZE, **options}
        )
        return getattr(transformers, f"{kind}Model")(config)

    return make_model


def _decoder(kind: str, model: str | None = None, **options: Any) -> Callable[[], Any]:
    def make_model() -> Any:
        import transformers

        settings = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 4, "eos_token_id": 5, **GROUPED}
        config = getattr(transformers, f"{kind}Config")(**{**settings, **options})
        return getattr(transformers, model or f"{kind}Model")(config)

    return make_model


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": WIDTH, "d_kv": 16, "num_heads": 2, "num_layers": 3, "num_decoder_layers": 3, "d_ff": 64}
    return T5EncoderModel(T5Config(vocab_size=VOCABULARY, pad_token_id=0, eos_token_id=5, **sizes))


_DISTILBERT = {"dim": WIDTH, "n_layers": 3, "n_heads": 2, "hidden_dim": 64}
_MODERN = {"global_attn_every_n_layers": 2, "local_attention": 16, "cls_token_id": 1, "sep_token_id": 2}
_GEMMA = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_RIGHT, _LEFT = {"frame": "<s> $A </s>"}, {"frame": "$A </s>", "side": "left"}
FAMILIES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "bert": (_bert("Bert"), {}),
    "roberta": (_bert("Roberta", max_position_embeddings=80, type_vocab_size=1), _RIGHT),
    "xlm-roberta": (_bert("XLMRoberta", max_position_embeddings=80, type_vocab_size=1), _RIGHT),
    "camembert": (_bert("Camembert", max_position_embeddings=80, type_vocab_size=1), _RIGHT),
    "mpnet": (_bert("MPNet", max_position_embeddings=80), {}),
    "distilbert": (_bert("DistilBert", **_DISTILBERT), {}),
    "electra": (_bert("Electra", embedding_size=16), {}),
    "albert": (_bert("Albert", embedding_size=16), {}),
    "deberta": (_bert("DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"]), {}),
    "modernbert": (_bert("ModernBert", **_MODERN), {}),
    "nomic_bert": (_bert("NomicBert"), {}),
    "jina_embeddings_v3": (_bert("JinaEmbeddingsV3", type_vocab_size=1), _RIGHT),
    "eurobert": (_decoder("EuroBert"), _RIGHT),
    "qwen2": (_decoder("Qwen2"), _LEFT),
    "qwen3": (_decoder("Qwen3"), _LEFT),
    "gemma3": (_decoder("Gemma3Text", use_bidirectional_attention=True, **_GEMMA), _RIGHT),
    "gemma2": (_decoder("Gemma2", sliding_window=16, query_pre_attn_scalar=16), _LEFT),
    "mistral": (_decoder("Mistral", sliding_window=16), _LEFT),
    "llama": (_decoder("Llama"), _LEFT),
    "llama-bidirectional": (_decoder("Llama", is_causal=False), _RIGHT),
    "t5": (_t5, {"frame": "$A </s>"}),
}


def base(family: str, path: Path, **tokens: Any) -> str:
    """Write a plain transformer of a family with its tokenizer."""
    torch.manual_seed(len(family))
    make_model, options = FAMILIES[family]
    make_model().save_pretrained(path)
    tokenizer(**{**options, **tokens}).save_pretrained(path)
    return str(path)


def edit(path: Path, **values: Any) -> None:
    """Set keys of a JSON file."""
    held = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**held, **values}))


def chain(family: str, *after: Callable[[Any], Any], tokens: dict[str, Any] | None = None, **settings: Any) -> Any:
    """Layout of a transformer and the modules that `after` makes of Sentence Transformers' modules."""

    def build(place: Path) -> Path:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer import modules

        first = modules.Transformer(base(family, place / "base", **(tokens or {})))
        torch.manual_seed(7)
        later = [make_module(modules) for make_module in after]
        SentenceTransformer(modules=[first, *later], device="cpu", **settings).save(str(place / "model"))
        return place / "model"

    return build


def pooling(mode: Any, **options: Any) -> Callable[[Any], Any]:
    """Pooling by a mode or several."""
    return lambda modules: modules.Pooling(WIDTH, mode, **options)


def dense(width: int, into: int, *, bias: bool = True, activation: type | None = None) -> Callable[[Any], Any]:
    """A dense layer; without an activation it is linear."""
    function = torch.nn.Identity() if activation is None else activation()
    return lambda modules: modules.Dense(width, into, bias=bias, activation_function=function)


def normalize(modules: Any) -> Any:
    """Vectors of length 1."""
    return modules.Normalize()


def layer_norm(modules: Any) -> Any:
    """A layer norm whose weights are not those of a new one."""
    module = modules.LayerNorm(WIDTH)
    torch.nn.init.normal_(module.norm.weight)
    return module


def _old_pooling(place: Path) -> Path:
    path = chain("bert", pooling("mean"))(place)
    (path / "1_Pooling" / "config.json").unlink()
    stated = {"pooling_mode_mean_tokens": True, "pooling_mode_weightedmean_tokens": True}
    edit(path / "1_Pooling" / "config.json", word_embedding_dimension=WIDTH, **stated)
    (path / "sentence_bert_config.json").unlink()
    edit(path / "sentence_roberta_config.json", max_seq_length=12)
    return path


def _lower_case(place: Path) -> Path:
    path = chain("bert", pooling("mean"), tokens={"lower": False})(place)
    edit(path / "sentence_bert_config.json", do_lower_case=True)
    return path


def _binary(place: Path) -> Path:
    from safetensors.torch import load_file

    path = chain("xlm-roberta", pooling("cls"), dense(WIDTH, 24, activation=torch.nn.Tanh), normalize)(place)
    for weights in list(path.rglob("model.safetensors")):
        torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
        weights.unlink()
    return path


def _static(place: Path) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    torch.manual_seed(3)
    first = modules.StaticEmbedding(tokenizer(), embedding_dim=WIDTH)
    SentenceTransformer(modules=[first, modules.Normalize()], device="cpu").save(str(place / "model"))
    return place / "model"


def _model2vec(place: Path) -> Path:
    from safetensors.torch import save_file

    path = _static(place)
    torch.manual_seed(5)
    mapping = torch.randint(0, 40, (VOCABULARY,))
    tensors = {"embeddings": torch.randn(40, WIDTH), "mapping": mapping, "weights": torch.rand(VOCABULARY)}
    save_file(tensors, path / "model.safetensors")
    edit(path / "config.json", model_type="model2vec", architectures=["StaticModel"], normalize=True)
    return path


def _adapter(place: Path) -> Path:
    import peft
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    first = modules.Transformer(base("bert", place / "base"))
    model = SentenceTransformer(modules=[first, modules.Pooling(WIDTH, "mean")], device="cpu")
    model.add_adapter(peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=4, target_modules=["query"]))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_()
    model.save(str(place / "model"))
    return place / "model"


def _router(place: Path) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    torch.manual_seed(3)
    query = [modules.StaticEmbedding(tokenizer(), embedding_dim=WIDTH)]
    document = [modules.Transformer(base("bert", place / "base")), modules.Pooling(WIDTH, "mean")]
    router = modules.Router.for_query_document(query_modules=query, document_modules=document)
    model = SentenceTransformer(modules=[router, modules.Normalize()], device="cpu", prompts={"query": "q: "})
    model.save(str(place / "model"))
    return place / "model"


def _two_towers(place: Path) -> Path:
    """Queries by a small encoder, documents by a decoder with a dense layer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    query = [modules.Transformer(base("bert", place / "query")), modules.Pooling(WIDTH, "cls")]
    document = [modules.Transformer(base("qwen3", place / "document")), modules.Pooling(WIDTH, "lasttoken")]
    document.append(dense(WIDTH, WIDTH, activation=torch.nn.Tanh)(modules))
    router = modules.Router.for_query_document(query_modules=query, document_modules=document)
    model = SentenceTransformer(modules=[router, modules.Normalize()], device="cpu", prompts={"document": "text: "})
    model.save(str(place / "model"))
    return place / "model"


_TASKS = {"query": "task: search | query: ", "document": "title: none | text: ", "STS": "task: sts | query: "}
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "bert, mean": chain("bert", pooling("mean"), normalize),
    "bge: roberta, cls": chain("roberta", pooling("cls"), normalize, prompts={"query": "search for: "}),
    "e5: xlm-roberta, passage": chain(
        "xlm-roberta", pooling("mean"), normalize, prompts={"query": "query: ", "passage": "passage: "}
    ),
    "all-mpnet": chain("mpnet", pooling("mean"), normalize),
    "dense with an activation that learns": chain("bert", pooling("mean"), dense(WIDTH, 24, activation=torch.nn.PReLU)),
    "distiluse: distilbert, dense": chain("distilbert", pooling("mean"), dense(WIDTH, 48, activation=torch.nn.Tanh)),
    "electra, max": chain("electra", pooling("max")),
    "albert, mean over root of length": chain("albert", pooling("mean_sqrt_len_tokens")),
    "deberta, weighted mean": chain("deberta", pooling("weightedmean")),
    "modernbert, last and first": chain("modernbert", pooling(["lasttoken", "cls"])),
    "nomic_bert, truncated, dot": chain(
        "nomic_bert", pooling("mean"), truncate_dim=24, similarity_fn_name="dot", prompts=dict(_TASKS)
    ),
    "Qwen3-Embedding": chain(
        "qwen3", pooling("lasttoken", include_prompt=True), normalize, prompts={"query": "Instruct: find\nQuery: "}
    ),
    "gte-Qwen2": chain("qwen2", pooling("lasttoken"), normalize),
    "EmbeddingGemma": chain(
        "gemma3",
        pooling("mean"),
        dense(WIDTH, 64, bias=False),
        dense(64, WIDTH, bias=False),
        normalize,
        prompts=_TASKS,
    ),
    "e5-mistral": chain("mistral", pooling("lasttoken"), normalize),
    "SGPT: llama, weighted mean": chain("llama", pooling("weightedmean")),
    "llm2vec: llama, bidirectional": chain("llama-bidirectional", pooling("mean")),
    "sentence-t5": chain("t5", pooling("mean"), dense(WIDTH, 24, bias=False), normalize),
    "LaBSE": chain("bert", pooling("cls"), dense(WIDTH, WIDTH, activation=torch.nn.Tanh), normalize),
    "instructor: prompt not pooled": chain(
        "bert", pooling("mean", include_prompt=False), normalize, prompts={"query": "Represent the question: "}
    ),
    "layer norm": chain("bert", pooling(["mean", "cls"]), dense(2 * WIDTH, WIDTH), layer_norm),
    "old settings": _old_pooling,
    "lower case": _lower_case,
    "binary weights": _binary,
    "static": _static,
    "model2vec": _model2vec,
    "adapter": _adapter,
    "router": _router,
    "router of two transformers": _two_towers,
}


def make(layout: str, place: Path) -> str:
    """Write a layout below a folder; returns the directory of the model."""
    return str(LAYOUTS[layout](place))
