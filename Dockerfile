# The exporter's image. Built from the repository's root:
#
#   docker build -t gpucost .        (or podman, or buildah bud)
#
# BASE_IMAGE is any Debian or Ubuntu with python3 >= 3.11 and its venv module; both stages use
# it, since a virtual environment points at the interpreter it was made with. Pin it by digest
# where builds must be repeatable: --build-arg BASE_IMAGE=python:3.12-slim-bookworm@sha256:...
ARG BASE_IMAGE=python:3.12.12-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /src

# Tools live in an environment of their own; /opt/gpucost gets neither them nor pip.
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN python3 -m venv /tools \
 && /tools/bin/python -m pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: \
      -r requirements/build.txt \
 && python3 -m venv --without-pip /opt/gpucost \
 && /tools/bin/python -m pip --python /opt/gpucost/bin/python install --no-cache-dir --no-compile \
      --no-deps --require-hashes --only-binary :all: -r requirements/runtime.txt

COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY exporter exporter
# Left out: the asyncio twin of the Kubernetes client (70 MB, never imported), and byte code of its
# typed models, which are never imported either (30 MB). The rest is compiled here, since the
# container's file system is read-only to its user, without time stamps, so that the same sources
# give the same files, and without docstrings (see PYTHONOPTIMIZE below).
RUN /tools/bin/hatchling build -t wheel -d /dist \
 && /tools/bin/python -m pip --python /opt/gpucost/bin/python install --no-cache-dir --no-compile \
      --no-deps --no-index /dist/*.whl \
 && rm -r /opt/gpucost/lib/python3*/site-packages/kubernetes/aio \
 && python3 -m compileall -q -j 0 -o 2 --invalidation-mode unchecked-hash \
      -x 'kubernetes/client/(models|api)/' /opt/gpucost/lib

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gpucost" \
      org.opencontainers.image.description="The GPU cost ledger for Kubernetes: dollars, waste and unit cost per pod" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The base's own pip and its wheels are of no use here, and nothing should be installed later.
# Its library has byte code with docstrings alone.
RUN rm -rf /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip \
      /usr/local/bin/pip* /usr/lib/python3*/ensurepip /usr/share/python-wheels \
 && python3 -m compileall -q -j 0 -o 2 --invalidation-mode unchecked-hash \
      -x '/(test|tests|idlelib|tkinter|turtledemo|lib2to3|pydoc_data|(site|dist)-packages)/' \
      "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

COPY --from=build /opt/gpucost /opt/gpucost

# NVIDIA_*: the container toolkit then mounts the driver's libraries and shows every GPU without
# the pod asking for one; `utility` is NVML alone, without CUDA.
# MALLOC_*: six threads that build pages held 67.1 MB with glibc's defaults and 62.5 MB so
# (resident, after the imports of this image; two arenas alone: 63.8 MB).
# PYTHONOPTIMIZE=2: 3 MiB of docstrings stay on the disk (`make bench`, resident).
ENV PATH=/opt/gpucost/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONOPTIMIZE=2 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=utility \
    MALLOC_ARENA_MAX=2 \
    MALLOC_TRIM_THRESHOLD_=131072

# Nobody in particular. The kubelet's pod-resources socket is root's: the chart says so where it
# mounts it.
USER 65532:65532
EXPOSE 10190
STOPSIGNAL SIGTERM
ENTRYPOINT ["gpucost"]
CMD ["serve"]
