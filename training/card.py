"""The model card: what the directory is, what it was made of, and what was measured."""

from typing import Any


def write(settings: dict[str, Any], measured: list[dict[str, Any]], rows: int, sources: list[str]) -> str:
    """Compose README.md of a model directory from the run's settings and its validation figures."""
    encoder, loop, loss = settings["encoder"], settings["loop"], settings["loss"]
    columns = [key for key in (measured[0] if measured else {}) if key != "step"]
    table = [f"| step | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    table += [f"| {row['step']} | {' | '.join(f'{row[key]:.4f}' for key in columns)} |" for row in measured]
    lora = settings.get("lora")
    adapters = f", low-rank adapters of rank {lora['rank']} (merged; alone in `adapter/`)" if lora else ""
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "tags: [sentence-transformers, sentence-similarity, feature-extraction, tripletail]",
        "---",
        "",
        "# Sentence-embedding model trained with Tripletail",
        "",
        f"Started from `{encoder['model']}`; trained on {rows:,} rows from {', '.join(sources)} with the "
        f"`{loss['type']}` loss, global batches of {loop['batch_size']} rows, "
        f"negatives shared by all workers{adapters}.",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        'model = SentenceTransformer("path/to/this/directory")',
        'queries = model.encode(["wireless headphones"], prompt_name="query")',
        'documents = model.encode(["Bluetooth earbuds", "running shoes"], prompt_name="document")',
        "print(model.similarity(queries, documents))",
        "```",
    ]
    if measured:
        held_out = "held-out pairs" if "spearman" in columns else "held-out queries, sampled corpus"
        lines += ["", f"## Validation while training ({held_out})", "", *table]
    return "\n".join(lines) + "\n"
