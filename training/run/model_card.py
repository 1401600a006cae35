"""The model card: what the model is, how to use it, what it was trained on, and how it was evaluated."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData
from pydantic import Field

from pipeline import __version__
from pipeline.core.config import Config
from pipeline.encoder import model_card
from pipeline.encoder.truncation import describe

MEASURED = "measured"
_USE = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/directory")
queries = model.encode(["wireless headphones"], prompt_name="query")
documents = model.encode(["Bluetooth earbuds", "running shoes"], prompt_name="document")
print(model.similarity(queries, documents))
```"""
_SETTINGS = ("batch_size", "epochs", "max_steps", "learning_rate", "warmup", "weight_decay", "average", "seed")


class CardConfig(Config):
    """Facts about a model that only its maker knows; they go onto the card and change nothing else."""

    name: str | None = Field(None, description="how the card calls the model")
    license: str | None = Field(None, description="identifier as the Hub has it, such as apache-2.0")
    language: list[str] = Field([], description="codes of the languages of the training texts, such as en")
    licenses: dict[str, str] = Field({}, description="licence of each source: {questions: CC BY-SA 4.0}")
    note: str | None = Field(None, description="a paragraph of your own")


def render(
    settings: dict[str, Any],
    measured: list[dict[str, Any]],
    rows: int,
    sources: list[str],
    lineage: Mapping[str, str] | None = None,
    truncation: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Compose README.md of a model directory from the run's settings, its inputs and its validation figures.

    `truncation` are notes on what is cut off long texts. The evaluate job puts its figures into the part `measured`.
    """
    about = CardConfig.model_validate(settings.get("card") or {})
    base = settings["encoder"]["model"]
    base_name, sources = model_card.public_name(base), [model_card.public_name(name) for name in sources]
    title = about.name or "Sentence-embedding model trained with Tripletail"
    data = ModelCardData(
        license=about.license,
        language=about.language or None,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction", "tripletail"],
        base_model=base if on_the_hub(base) else None,
    )
    parts = [
        f"# {title}",
        about.note or "",
        f"Started from `{base_name}`; trained on {rows:,} rows from {', '.join(sources)} with the "
        f"`{settings['loss']['type']}` loss, global batches of {settings['loop']['batch_size']} rows, "
        f"negatives shared by all workers{_adapters(settings)}.",
        f"## Use\n\n{_USE}",
        model_card.section(MEASURED, "## Measured\n\nNot yet: `tripletail evaluate` writes its figures here."),
        validation_section(measured),
        f"## Training\n\n{training_table(settings)}",
        "\n".join(f"- {describe(note)}." for note in truncation),
        f"## Data\n\n{source_table(sources, about)}",
        f"## Lineage\n\n{lineage_table(lineage or {})}",
        f"## Licence\n\n{licence_text(about, base)}",
    ]
    return str(model_card.create(data, "\n\n".join(part for part in parts if part)))


def on_the_hub(name: str) -> bool:
    """Whether a base can be a link on the Hub: an owner and a name, and no path."""
    owner, slash, _ = name.partition("/")
    return bool(slash) and not model_card.is_path(name) and ":" not in owner


def _adapters(settings: dict[str, Any]) -> str:
    lora = settings.get("lora")
    if not lora:
        return ""
    method = lora.get("method", "lora")
    kind = f"low-rank adapters of rank {lora['rank']}" if method == "lora" else f"`{method}` adapters of peft"
    return f", {kind} (merged; alone in `adapter/`)"


def validation_section(measured: list[dict[str, Any]]) -> str:
    """Figures of the validations, by step; empty where there was none."""
    if not measured:
        return ""
    columns = [key for key in measured[0] if key != "step"]
    held_out = "held-out pairs" if "spearman" in columns else "held-out queries, sampled corpus"
    rows = [[str(row["step"]), *(f"{row[key]:.4f}" for key in columns)] for row in measured]
    return f"## Validation while training ({held_out})\n\n{model_card.table(['step', *columns], rows)}"


def training_table(settings: dict[str, Any]) -> str:
    """List the settings that decide a training; config.json beside its log holds all of them."""
    loop, model = settings["loop"], settings.get("encoder") or settings["cross_encoder"]
    values = {"loss": settings["loss"]["type"], "rows": ", ".join(settings.get("rows", []))}
    values |= {name: loop[name] for name in _SETTINGS if loop.get(name) is not None}
    values |= {name: model[name] for name in ("max_length", "layers") if model.get(name)}
    if settings.get("interpolation", 1.0) != 1.0:
        values["interpolation"] = settings["interpolation"]
    return model_card.table(
        ["setting", "value"], [[name.replace("_", " "), _format_value(value)] for name, value in values.items()]
    )


def _format_value(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def source_table(sources: list[str], about: CardConfig) -> str:
    """Sources of the rows and their licences."""
    return model_card.table(["source", "licence"], [[name, about.licenses.get(name, "not stated")] for name in sources])


def lineage_table(lineage: Mapping[str, str]) -> str:
    """Fingerprints of all that a model was made of."""
    rows = [["tripletail", __version__], *([name, f"`{mark}`"] for name, mark in lineage.items())]
    return model_card.table(["made of", "fingerprint"], rows)


def licence_text(about: CardConfig, base: str) -> str:
    """Licences of the model and of its base."""
    model_license, base_license = about.license or "not stated", model_card.stated_license(base) or "see there"
    return (
        f"This model: {model_license}. Its base, `{model_card.public_name(base)}`: {base_license}. The data: see above."
    )
