# lensd in a container that does not run as root. docs/operations.md, "In a container", explains how to run it.
#
#   docker build -t lensd .
#   docker build -t lensd --build-arg TORCH_INDEX=URL .
#   docker build -t lensd --build-arg EXTRAS=[notify] .   for messages by `notify.urls`
#
# By default pip installs a torch with CUDA, about 3 GB. With the URL of an index of CPU wheels (the PyTorch site
# names it) the image does not contain CUDA.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=
# Compiles the kernels; the final image does not contain it.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/lensd
# A separate first step, so that Docker reuses this large layer when only lensd changes.
RUN /opt/lensd/bin/pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml hatch_build.py README.md LICENSE /src/
COPY systemd /src/systemd
COPY lensd /src/lensd
ARG EXTRAS=
RUN /opt/lensd/bin/pip install --no-cache-dir "/src${EXTRAS}"

FROM python:${PYTHON}-slim
COPY --from=build /opt/lensd /opt/lensd
# A fixed number, because the folders of the host identify users by number. `--user` sets the owner of the LoRAs.
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent lensd \
    && install -d -m 0755 /etc/lensd /srv \
    && install -d -m 0750 -o 10001 -g 10001 /var/lib/lensd
# The root file system may be read-only, so Python must not write bytecode.
ENV PATH=/opt/lensd/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001
# /srv holds the watched folders and the archive. It is one mount, because a hard link cannot cross mounts.
VOLUME ["/srv", "/var/lib/lensd"]
# As process 1 the daemon also reaps its worker and exits within seconds of SIGTERM, so no init is needed.
STOPSIGNAL SIGTERM
# Tests each path that lensd must write, with the rights of the running daemon.
HEALTHCHECK --interval=5m --timeout=1m --start-period=1m CMD ["lensd", "check"]
ENTRYPOINT ["lensd"]
CMD ["run"]
