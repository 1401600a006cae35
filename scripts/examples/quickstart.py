# %%
"""The sample shop from Python, in cells for a notebook: `python scripts/examples/quickstart.py [RUN_DIRECTORY]`.

Rows in memory and files become training pairs; a small encoder learns from them, embeds the corpus, is measured, and
answers a query. It needs the extra `sample` (a small model) and takes a minute or two on two cores.
"""

import sys
from pathlib import Path

import tripletail

RUN = sys.argv[1] if len(sys.argv) > 1 else "runs/notebook"
PACKAGE = Path(tripletail.__file__).parent
SAMPLE = next(path for path in (PACKAGE / "sample", PACKAGE.parent / "sample") if path.is_dir())

# %% [markdown]
# ## Data
# A source is what a recipe says of one, or rows: a list of dicts, a pandas data frame, an Arrow table, a
# `datasets.Dataset` or a `ray.data.Dataset`. Here the catalogue and a question-and-answer site are files.

# %%
faq = [
    {"question": "How long does delivery take?", "answer": "Parcels arrive within three working days."},
    {"question": "Can I send a lamp back?", "answer": "Unused articles can be returned within thirty days."},
    {"question": "Do you repair kettles?", "answer": "Our workshop mends kettles and other small appliances."},
]
data = tripletail.build(
    run=RUN,
    sources=[
        {"rows": faq, "kind": "qa", "name": "faq"},
        {"type": "jsonl", "kind": "product", "path": str(SAMPLE / "products.jsonl"), "name": "products"},
        {"type": "stackexchange", "path": str(SAMPLE / "Posts.xml"), "name": "questions"},
    ],
    split={"train": 0.6, "dev": 0.1, "test": 0.3},
)
tripletail.inspect(data, rows=1)

# %% [markdown]
# The tables of an artifact open as Arrow, pandas and Ray data sets.

# %%
pairs = data.pandas("pairs", ["anchor", "positive", "split"])
print(pairs.groupby("split").size())
print(data.dataset("corpus").count(), "documents")

# %% [markdown]
# ## Training
# Settings are those of a recipe, as keywords: `tripletail train --help-all` lists them.

# %%
training = tripletail.train(
    run=RUN,
    encoder={"layers": 2, "max_length": 64},
    loss={"type": "infonce", "temperature": 0.05},
    loop={"max_steps": 8, "batch_size": 32, "learning_rate": 1e-4, "dropout": 0.0, "validations": 1},
    workers=1,
)
print(training.manifest.notes["validation"])

# %% [markdown]
# ## Vectors, a report, a search

# %%
tripletail.embed(run=RUN, columns=["title"])
report = tripletail.evaluate(run=RUN, split="test", max_queries=50)
print("report:", report.path + "/report.html")

# %%
searcher = tripletail.Searcher(f"{RUN}/vectors")
for hit in tripletail.search("how do I get coffee stains out of a mug?", searcher, top_k=3):
    print(f"{hit.score:.3f}  {hit.title}")

# %% [markdown]
# The encoder itself, and the same directory for Sentence Transformers: `SentenceTransformer(f"{RUN}/model")`.

# %%
encoder = tripletail.load_encoder(training)
print(encoder.encode(["a kettle for two cups"], "query").shape)
