"""Start MLflow's server in its container: who may ask, under which names, and where records go.

By the environment, beside what MLflow itself reads there (MLFLOW_BACKEND_STORE_URI,
MLFLOW_ARTIFACTS_DESTINATION; PGPASSFILE and AWS_SHARED_CREDENTIALS_FILE for their passwords):

- SECRETS: the folder with ``mlflow-password`` and ``flask-key``, made by make_secrets.py
- ALLOWED_HOSTS: further names, with commas between, under which clients and browsers ask for it
- HOST, PORT: where it listens; all of the container, and 5000
- WORKERS: processes that answer; one is what SQLite needs
"""

import os
import tempfile
from pathlib import Path

STATE = Path.home()
SECRETS = Path(os.environ.get("SECRETS", "/secrets"))
NAMES = [
    "localhost",
    "127.0.0.1",
    "mlflow",
    *filter(None, os.environ.get("ALLOWED_HOSTS", "").split(",")),
]


def main() -> None:
    """Become the server."""
    os.umask(0o077)
    settings = Path(tempfile.gettempdir()) / "auth.ini"
    settings.write_text(
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = sqlite:///{STATE}/users.db\n"
        f"admin_username = {os.environ.get('MLFLOW_TRACKING_USERNAME', 'admin')}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "grant_default_workspace_access = false\n"
        "auth_cache_ttl_seconds = 60\n"
    )
    os.environ |= {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        # At the first start it becomes the administrator's.
        "MLFLOW_AUTH_ADMIN_PASSWORD": _secret("mlflow-password"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": _secret("flask-key"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    os.environ.setdefault("MLFLOW_BACKEND_STORE_URI", f"sqlite:///{STATE}/mlflow.db")
    os.environ.setdefault("MLFLOW_ARTIFACTS_DESTINATION", str(STATE / "artifacts"))
    _make_bucket(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
    host, port = os.environ.get("HOST", "0.0.0.0"), os.environ.get("PORT", "5000")
    command = [
        *("mlflow", "server", "--app-name", "basic-auth", "--host", host, "--port", port),
        *("--workers", os.environ.get("WORKERS", "1")),
        *("--allowed-hosts", ",".join(f"{name},{name}:*" for name in NAMES)),
        *("--cors-allowed-origins", ",".join(f"http://{name}:{port}" for name in NAMES)),
    ]
    os.execvp(command[0], command)


def _secret(name: str) -> str:
    return (SECRETS / name).read_text().strip()


def _make_bucket(destination: str) -> None:
    """Make the bucket that artifacts go to, where it is not there."""
    scheme, _, place = destination.partition("://")
    if scheme != "s3":
        return
    import boto3
    from botocore.exceptions import ClientError

    store = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
    bucket = place.partition("/")[0]
    try:
        store.head_bucket(Bucket=bucket)
    except ClientError:
        store.create_bucket(Bucket=bucket)


if __name__ == "__main__":
    main()
