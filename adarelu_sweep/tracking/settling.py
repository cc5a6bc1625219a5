"""Undoing what requests did that the server carried out after the client had given them up.

Each was sent again meanwhile: there may be a second run of a trial, or a run may have been set back
to a state that it had left.
"""

from adarelu_sweep.tracking.delivered import Delivered
from adarelu_sweep.tracking.experiment import Experiment

TRIAL_TAG = "adarelu_sweep.trial"
"""A run's trial, unique in a tracking server."""


def settle(experiment: Experiment, delivered: dict[str, Delivered], parent_run: str) -> None:
    """Leave one run for the study and one for every trial, each in the state that was delivered.

    What has not arrived yet stays as it is. ``delivered`` is what is known of each trial's run.
    """
    for run in experiment.runs("study"):
        if run.info.run_id != parent_run:
            experiment.client.delete_run(run.info.run_id)
    trials = experiment.runs("trial")
    known = {run.data.tags[TRIAL_TAG] for run in trials if run.info.run_id in delivered}
    for run in trials:
        run_id = run.info.run_id
        if run_id not in delivered:
            if run.data.tags[TRIAL_TAG] in known:
                experiment.client.delete_run(run_id)
        elif (status := delivered[run_id].status) not in {None, run.info.status}:
            experiment.set_status(run_id, status)
