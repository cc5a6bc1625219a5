"""Undoing what requests did that the server carried out after the client had given them up.

Each was sent again meanwhile: there may be a second run of a trial, or a run may have been set back
to a state that it had left.
"""

from pathlib import Path

from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.experiment import Experiment

TRIAL_TAG = "adarelu_sweep.trial"
"""A run's trial, unique in a tracking server."""


def settle(experiment: Experiment, study_folder: Path, parent_run: str) -> None:
    """Leave one run for the study and one for every trial, each in the state that was delivered.

    What has not arrived yet stays as it is.
    """
    for run in experiment.runs("study"):
        if run.info.run_id != parent_run:
            experiment.client.delete_run(run.info.run_id)
    delivered = Delivered.below(study_folder)
    trials = experiment.runs("trial")
    known = {run.data.tags[TRIAL_TAG] for run in trials if run.info.run_id in delivered}
    for run in trials:
        run_id = run.info.run_id
        if run_id not in delivered:
            if run.data.tags[TRIAL_TAG] in known:
                experiment.client.delete_run(run_id)
        elif (status := delivered[run_id].status) not in {None, run.info.status}:
            experiment.set_status(run_id, status)
