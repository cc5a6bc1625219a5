# MLflow's server: on SQLite, or on PostgreSQL with artifacts in an S3 store.
# Built from the repository's root: docker build -f docker/mlflow.Dockerfile .

# By tag; a digest could not be looked up where this was written. With one it is pinned for good:
#   --build-arg PYTHON=python:3.11.14-slim-bookworm@sha256:...
ARG PYTHON=python:3.11.14-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/mlflow
COPY constraints.txt /src/
# Nobody needs the tests of its libraries in a server: a tenth of its size.
RUN /opt/mlflow/bin/pip install -c /src/constraints.txt 'mlflow[auth]' 'psycopg[binary]' boto3 \
    && find /opt/mlflow -type d -name tests -prune -exec rm -r {} +

FROM ${PYTHON}
# The same number as the worker's: both read the files with secrets, which are their owner's alone.
RUN useradd --uid 10001 --home-dir /var/lib/mlflow --create-home mlflow \
    && install -d -o mlflow -m 0700 /secrets
COPY --from=build /opt/mlflow /opt/mlflow
COPY docker/serve.py docker/make_secrets.py /opt/
# Home: SQLite's files and the artifacts, unless they are elsewhere. All else may be read-only.
ENV PATH=/opt/mlflow/bin:$PATH HOME=/var/lib/mlflow PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib MLFLOW_DISABLE_TELEMETRY=true
USER 10001
WORKDIR /var/lib/mlflow
VOLUME /var/lib/mlflow
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:5000/health', timeout=4)"]
CMD ["python3", "/opt/serve.py"]
