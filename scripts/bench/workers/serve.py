"""The peer of the server: `SentenceTransformer.encode` behind FastAPI and uvicorn, as tutorials show it."""

import asyncio
import socket
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

from pipeline.encoder.model_directory import resolve_model


class Body(BaseModel):
    """OpenAI's request, as far as the benchmark sends it."""

    input: str | list[str]


def application(model: SentenceTransformer) -> FastAPI:
    """The route, whose function runs in the thread pool of the server."""
    app = FastAPI()

    @app.post("/v1/embeddings")
    def embeddings(body: Body) -> dict[str, object]:
        texts = [body.input] if isinstance(body.input, str) else body.input
        rows = model.encode(texts, show_progress_bar=False).tolist()
        return {"data": [{"index": number, "embedding": row} for number, row in enumerate(rows)]}

    return app


def main() -> None:
    """Serve the model that the first word names, on a free port of loopback."""
    app = application(SentenceTransformer(resolve_model(sys.argv[1]), device="cpu"))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    sys.stderr.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stderr.flush()
    asyncio.run(server.serve([listener]))


if __name__ == "__main__":
    main()
