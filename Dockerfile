# syntax=docker/dockerfile:1

# Image of Atlas (docs/containers.md). Two targets, with the same code and the versions of requirements.lock:
#
#   docker build --target cpu  -t atlas:0.1.0 .
#   docker build --target cuda -t atlas:0.1.0-cuda .
#
# Without a command, a container runs `atlas serve`. /work is the folder of a project: mount a clone there to run the
# pipeline in it. To pin the base image by digest: --build-arg PYTHON_IMAGE=python:...@sha256:...
ARG PYTHON_IMAGE=python:3.12.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/atlas/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    DO_NOT_TRACK=1
# DVC needs git. A clone that is mounted at /work belongs to a user of the host.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /work \
    && groupadd --gid 1000 atlas \
    && useradd --uid 1000 --gid 1000 --create-home atlas \
    && install --directory --owner=1000 --group=1000 /work

# The wheel of this project, with the bundled model.
FROM base AS wheel
WORKDIR /build
COPY requirements-build.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/atlas && pip install --require-hashes --no-deps --requirement requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY models/pretrained models/pretrained
COPY atlas_model atlas_model
COPY crawlers crawlers
COPY flows flows
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

# The packages, in a virtual environment. PACKAGES: further ones, in the versions of requirements-dev.lock, such as
# "dvc-s3" for a DVC remote in S3, or "onnx onnxruntime onnxscript" for that engine.
FROM base AS packages
WORKDIR /build
COPY requirements.lock requirements-build.lock requirements-cuda.lock requirements-dev.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/atlas && pip install --require-hashes --no-deps --requirement requirements-build.lock
ARG PACKAGES=""

FROM packages AS packages-cpu
# PyTorch's index has builds without CUDA, which are 2.5 GB smaller. The lock has no hashes of all of them, so torch and
# torchvision are taken from there as they are; what is installed, the next command leaves.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=SC2046,SC2086
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --index-url "${TORCH_INDEX}" \
        $(sed -n 's/^\(torch\(vision\)\{0,1\}==[^ ;]*\).*/\1/p' requirements.lock) \
    && pip install --require-hashes --no-deps --no-build-isolation --requirement requirements.lock \
    && pip install --constraint requirements.lock --constraint requirements-dev.lock pip ${PACKAGES}

FROM packages AS packages-cuda
# The package index has builds with the CUDA libraries; only the driver comes from the host.
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --no-deps --no-build-isolation --requirement requirements.lock \
        --requirement requirements-cuda.lock \
    && pip install --constraint requirements.lock --constraint requirements-dev.lock pip ${PACKAGES}

# What both targets share.
FROM base AS service
WORKDIR /work
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python", "-c", "import urllib.request as http; http.urlopen('http://127.0.0.1:8080/v2/health/live', timeout=4)"]
CMD ["atlas", "serve", "--host", "0.0.0.0", "--port", "8080"]

# The packages are a layer of their own, which changes with the lock file only.
FROM service AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages-cuda /opt/atlas /opt/atlas
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-cache-dir --no-deps /wheels/*.whl
USER 1000:1000

# The last target is the default one.
FROM service AS cpu
COPY --from=packages-cpu /opt/atlas /opt/atlas
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-cache-dir --no-deps /wheels/*.whl
USER 1000:1000
