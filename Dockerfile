# lensd in a container, as a user that is not root. docs/operations.md, "In a container", has how to run it.
#
#   docker build -t lensd .
#   docker build -t lensd --build-arg TORCH_INDEX=URL .
#
# The torch that pip finds by itself brings CUDA along, some 3 GB. With the URL of an index of CPU
# wheels (the PyTorch site names it) the image is that much smaller.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=
RUN python -m venv /opt/lensd
# By itself and first, so that this large layer stays when only lensd changes.
RUN /opt/lensd/bin/pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE /src/
COPY lensd /src/lensd
RUN /opt/lensd/bin/pip install --no-cache-dir /src

FROM python:${PYTHON}-slim
COPY --from=build /opt/lensd /opt/lensd
# A number, as the host's folders know users by nothing else. `--user` names the one that owns the LoRAs.
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent lensd \
    && install -d -m 0755 /etc/lensd /srv \
    && install -d -m 0750 -o 10001 -g 10001 /var/lib/lensd
# The root may be mounted read-only, so there is no bytecode to write.
ENV PATH=/opt/lensd/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001
# /srv: folders and archive. In one mount, since a hard link does not lead from one to another.
VOLUME ["/srv", "/var/lib/lensd"]
# The daemon reaps its worker and ends within seconds of SIGTERM as process 1 too: no init is needed.
STOPSIGNAL SIGTERM
# Asks the kernel, as the running daemon, for each path that it has to write.
HEALTHCHECK --interval=5m --timeout=1m --start-period=1m CMD ["lensd", "check"]
ENTRYPOINT ["lensd"]
CMD ["run"]
