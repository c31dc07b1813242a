# A node: docker build -f deploy/node.Dockerfile -t cxp2p-node .
FROM python:3.12-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake g++ libgmp-dev make \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
# llama.cpp is compiled for any processor of this kind; leave CMAKE_ARGS out to have it for the one that builds.
RUN python -m venv /opt/cxp2p \
    && CMAKE_ARGS=-DGGML_NATIVE=OFF \
    /opt/cxp2p/bin/pip install --no-cache-dir --constraint /src/constraints.txt '/src[node]'

FROM python:3.12-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgmp10 libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home cxp2p \
    && install -d -o cxp2p -m 0700 /var/lib/cxp2p
COPY --from=build /opt/cxp2p /opt/cxp2p
USER cxp2p
ENV CXP2P_NODE_DATA_PATH=/var/lib/cxp2p \
    CXP2P_NODE_MODELS_PATH=/var/lib/cxp2p/models
VOLUME /var/lib/cxp2p
EXPOSE 4001
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/cxp2p/bin/cxp2p"]
CMD ["node", "run", "--log-format", "json"]
