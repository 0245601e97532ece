# syntax=docker/dockerfile:1
# One image for every part: `docker run aqueduct-gateway api`, `worker`, `flower`. Runs as a user without rights.
FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY aqueduct aqueduct
COPY api api
COPY workers workers
COPY shared shared
# The lock as constraints: its versions, but only what the gateway itself needs, and what is asked for: EXTRAS=traces.
ARG EXTRAS=""
RUN python -m venv /opt/aqueduct \
 && /opt/aqueduct/bin/pip install --no-cache-dir --constraint requirements.lock ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin aqueduct
COPY --from=build /opt/aqueduct /opt/aqueduct
COPY tools/healthcheck.py tools/scale.py /usr/local/lib/aqueduct/
ENV PATH=/opt/aqueduct/bin:$PATH \
    PYTHONUNBUFFERED=1
USER aqueduct
WORKDIR /tmp
EXPOSE 8000
ENTRYPOINT ["aqueduct"]
CMD ["--help"]
