"""The card of a reranker: what it is, how to use it, what it was trained on."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from pipeline.encoder import model_card
from training.run.model_card import (
    CardConfig,
    licence_text,
    lineage_table,
    on_the_hub,
    source_table,
    training_table,
    validation_section,
)

_USE = """```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("path/to/this/directory")
model.predict([("wireless headphones", "Bluetooth earbuds"), ("wireless headphones", "running shoes")])
```"""


def render(
    settings: dict[str, Any],
    measured: list[dict[str, Any]],
    rows: int,
    sources: list[str],
    lineage: Mapping[str, str],
) -> str:
    """Compose README.md of a reranker's directory from the run's settings, its inputs and its validation figures."""
    about, base = CardConfig.model_validate(settings.get("card") or {}), settings["cross_encoder"]["model"]
    names = [model_card.public_name(name) for name in sources]
    data = ModelCardData(
        license=about.license,
        language=about.language or None,
        library_name="sentence-transformers",
        pipeline_tag="text-ranking",
        tags=["sentence-transformers", "cross-encoder", "reranker", "tripletail"],
        base_model=base if on_the_hub(base) else None,
    )
    parts = [
        f"# {about.name or 'Reranker trained with Tripletail'}",
        about.note or "",
        f"A cross-encoder: it reads a query and a document at once and scores how well they fit. Started from "
        f"`{model_card.public_name(base)}`; trained on {rows:,} rows from {', '.join(names)} with the "
        f"`{settings['loss']['type']}` loss, global batches of {settings['loop']['batch_size']} rows.",
        f"## Use\n\n{_USE}",
        validation_section(measured),
        f"## Training\n\n{training_table(settings)}",
        f"## Data\n\n{source_table(names, about)}",
        f"## Lineage\n\n{lineage_table(lineage)}",
        f"## Licence\n\n{licence_text(about, base)}",
    ]
    return str(model_card.create(data, "\n\n".join(part for part in parts if part)))
