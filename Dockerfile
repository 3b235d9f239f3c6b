# The suite and its exact packages. On the CPU, or on a GPU whose driver fits the torch of constraints.txt
# (docs/cluster.md has the table):
#     docker build -t mlssl .
#     docker run --shm-size 8g -v "$PWD/own:/opt/mlssl/own" mlssl --cores all --config study=own/study.yaml
# and --gpus all for its GPUs. The container's user has the number 1000; what it writes to has to be writable for it.
# For another build of torch, give a file without the lines of torch and CUDA, and the index that pytorch.org names:
#     docker build --build-arg CONSTRAINTS=constraints-own.txt --build-arg TORCH_INDEX=ADDRESS -t mlssl .
ARG BASE=python:3.11.14-slim-bookworm
FROM ${BASE}

ARG CONSTRAINTS=constraints.txt
ARG TORCH_INDEX=

# A compiler for pycocotools where it has no wheel.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 mlssl && mkdir /opt/mlssl && chown mlssl /opt/mlssl
USER mlssl
WORKDIR /opt/mlssl
ENV PATH=/opt/mlssl/.venv/bin:$PATH PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
RUN python -m venv .venv

COPY --chown=mlssl pyproject.toml constraints*.txt README.md LICENSE Snakefile Makefile ./
COPY --chown=mlssl mlssl mlssl
COPY --chown=mlssl baselines baselines
COPY --chown=mlssl config config
COPY --chown=mlssl profiles profiles
COPY --chown=mlssl workflow workflow
COPY --chown=mlssl results/published results/published
COPY --chown=mlssl results/reference results/reference
COPY --chown=mlssl tests tests

RUN if [ -n "$TORCH_INDEX" ]; then pip install torch torchvision --index-url "$TORCH_INDEX"; fi \
    && pip install -c "$CONSTRAINTS" -e '.[test]'

ENTRYPOINT ["snakemake"]
CMD ["--cores", "all"]
