"""Training losses on the global batch, one a file; `registry.py` names them for recipes."""
