"""Make what the containers of compose.yaml know each other by, each secret in a file of its own.

What is there stays: who has secrets of their own puts them there beforehand. Every file is for its
owner only, the user of the worker and the server; other containers read theirs as root.
"""

import json
import os
import secrets
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Make the files that are missing."""
    os.umask(0o277)
    keep(folder / "mlflow-password", secrets.token_urlsafe(24))
    keep(folder / "flask-key", secrets.token_hex(32))
    password = keep(folder / "postgres-password", secrets.token_urlsafe(24))
    keep(folder / "pgpass", f"*:*:*:sweep:{password}\n")
    key, secret = keep(
        folder / "s3-key", secrets.token_hex(10) + " " + secrets.token_hex(20)
    ).split()
    keep(
        folder / "aws", f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
    )
    credentials = [{"accessKey": key, "secretKey": secret}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = [{"name": "sweep", "credentials": credentials, "actions": actions}]
    keep(folder / "s3.json", json.dumps({"identities": identities}))


def keep(path: Path, content: str) -> str:
    """Return what a file holds, made whole with this content where it is not there."""
    if not path.exists():
        aside = path.with_name(f"{path.name}.new")
        aside.unlink(missing_ok=True)
        aside.write_text(content)
        aside.replace(path)
    return path.read_text().strip()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
