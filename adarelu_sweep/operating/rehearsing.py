"""Proving a study's components that are not built in, before anything is recorded.

In a process of its own: it imports torch and code of others, which the supervisor must not.
"""

import json
import subprocess
from pathlib import Path

from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.errors import UserError
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.launching.local import environment
from adarelu_sweep.networks.registry import NETWORKS
from adarelu_sweep.placing.machine import available_cores
from adarelu_sweep.processes import own_command
from adarelu_sweep.studies.schema import Study


def rehearse(study: Study, data_folder: Path) -> None:
    """Train every combination with an activation or network of the user's own, for a moment.

    Takes seconds; returns at once where all are built in. Raises
    UserError that names the component and the reason.
    """
    matrix = study.matrix
    own_network = any(component.name not in NETWORKS for component in matrix.network)
    if not own_network and all(component.name in ACTIVATIONS for component in matrix.activation):
        return
    parts = matrix.model_dump(mode="json", include={"dataset", "network", "activation"})
    done = subprocess.run(
        own_command("adarelu_sweep.training.rehearsal", str(data_folder)),
        input=json.dumps(parts | {"training": study.training.model_dump(mode="json")}),
        capture_output=True,
        text=True,
        errors="replace",
        env=environment(Slot(0, threads=available_cores())),
    )
    if done.returncode == 2 and done.stdout.strip():
        raise UserError(done.stdout.strip())
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise UserError(
            "the rehearsal of the study's own components ended with status "
            f"{done.returncode}: {last[0] if last else 'it said nothing'}"
        )
