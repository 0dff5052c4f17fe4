# A server on a GPU, or on the CPU where there is none. Build: docker build -t qwen3-embed .
# Run:   docker run --gpus all -p 8000:8000 -v models:/models -v ./keys:/keys:ro qwen3-embed \
#            --model Qwen3-Embedding-0.6B --api-key-file /keys
# Keys, one per line, must be readable by the user 10001; --port stays 8000, which is what the health
# check asks, and -p chooses another outside.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /venv
COPY . /source
# nvcc and cuBLAS are those of the image: without them the build is to fail, not to leave CUDA out.
RUN QWEN3_EMBED_CUDA=1 /venv/bin/pip install --no-cache-dir "/source[server]"

FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 qwen3 \
    && mkdir /models && chown qwen3 /models
COPY --from=build /venv /venv
USER qwen3
# Models, and what was measured on the GPU, outlive the container in the volume.
ENV HF_HOME=/models XDG_CACHE_HOME=/models/cache
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s CMD ["/venv/bin/python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# Beyond the container's own loopback a key is needed, or --no-key: the command says which.
ENTRYPOINT ["/venv/bin/qwen3-embed", "serve", "--host", "0.0.0.0"]
