# One image for all services of fleetbus: `docker run fleetbus handlers`, `… portal`, and so on.

FROM python:3.12.8-slim-bookworm AS build

WORKDIR /src
RUN python -m venv /opt/fleetbus/venv
ENV PATH=/opt/fleetbus/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# what changes seldom comes first: its layer is kept
COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock

COPY pyproject.toml ./
COPY fleetbus fleetbus
COPY portal portal
COPY nodeagent nodeagent
COPY handlers handlers
COPY projections projections
COPY bus bus
COPY events events
COPY schemas schemas
COPY jumpscripts jumpscripts
RUN pip install --no-deps --no-build-isolation .


FROM python:3.12.8-slim-bookworm

RUN useradd --system --uid 10001 --home-dir /var/lib/fleetbus --create-home fleetbus \
    && chmod 0700 /var/lib/fleetbus \
    && install --directory --owner fleetbus --group fleetbus --mode 0750 /var/lib/fleetbus-archive
COPY --from=build /opt/fleetbus/venv /opt/fleetbus/venv
COPY deploy/healthcheck.py /opt/fleetbus/deploy/healthcheck.py

ENV PATH=/opt/fleetbus/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FLEETBUS_LOG=json

USER 10001:10001
WORKDIR /var/lib/fleetbus
ENTRYPOINT ["fleetbus"]
