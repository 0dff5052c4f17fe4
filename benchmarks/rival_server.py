"""The usual small server, FastAPI in front of sentence-transformers, for `serve.py --rival`.

It needs what no extra of this project brings: `pip install fastapi uvicorn sentence-transformers`.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class Request(BaseModel):
    input: list[str]
    model: str
    encoding_format: str = "float"


def application(folder: str) -> FastAPI:
    model = SentenceTransformer(folder, device="cpu")
    app = FastAPI()

    @app.post("/v1/embeddings")
    def embeddings(request: Request) -> dict[str, Any]:
        rows = model.encode(request.input, normalize_embeddings=True)
        data = [
            {"object": "embedding", "index": i, "embedding": base64.b64encode(row).decode()}
            for i, row in enumerate(rows)
        ]
        return {"object": "list", "data": data, "model": request.model}

    return app


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[1]), port=int(sys.argv[2]), access_log=False)
