# A gateway: docker build -f deploy/gateway.Dockerfile -t cxp2p-gateway .
FROM python:3.12-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libgmp-dev \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN python -m venv /opt/cxp2p \
    && /opt/cxp2p/bin/pip install --no-cache-dir --constraint /src/constraints.txt '/src[gateway,postgres,audio]'

FROM python:3.12-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgmp10 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home cxp2p \
    && install -d -o cxp2p -m 0700 /var/lib/cxp2p
COPY --from=build /opt/cxp2p /opt/cxp2p
USER cxp2p
ENV CXP2P_GATEWAY_DATA_PATH=/var/lib/cxp2p \
    CXP2P_GATEWAY_HTTP__HOST=0.0.0.0 \
    CXP2P_GATEWAY_LOG__FORMAT=json
VOLUME /var/lib/cxp2p
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
    CMD ["/opt/cxp2p/bin/python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/health', timeout=3)"]
ENTRYPOINT ["/opt/cxp2p/bin/cxp2p"]
CMD ["gateway", "run"]
