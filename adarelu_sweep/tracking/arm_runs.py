"""A run for every arm, so that the tracker's default charts compare arms, a line each.

MLflow's run list and charts show a study's trials only once their parent is unfolded, and the
first ten rows, newest first. An arm's run has no parent and starts just after the study's: with the
others it stands at the top, in the report's order.
"""

import hashlib
import json
from dataclasses import asdict

from mlflow.entities import Metric

from adarelu_sweep.tracking.experiment import COLOUR_TAG, KIND_TAG, Experiment
from adarelu_sweep.tracking.study_report import ArmCurves

_DIGEST_TAG = "adarelu_sweep.digest"


def update_arm_runs(experiment: Experiment, arms: list[ArmCurves], study_start: int) -> None:
    """Make the study's arm runs those of ``arms``, whatever was there before.

    What is there already stays as it is: a run carries a digest of all that it shows, set once it
    is whole. A run of other content, a half-made one and a double go, after the new ones are made.

    Args:
        experiment: Where the runs are.
        arms: The arms in the order in which they are to be listed.
        study_start: When the study's own run started, in milliseconds since 1970.
    """
    surplus = {run.info.run_id: run for run in experiment.runs("arm")}
    whole = {run.data.tags.get(_DIGEST_TAG): run_id for run_id, run in surplus.items()}
    for position, arm in enumerate(arms):
        start = study_start + len(arms) - position
        tags = {KIND_TAG: "arm", "arm": arm.arm}
        if arm.colour:
            tags[COLOUR_TAG] = arm.colour
        digest = _digest(arm, start, tags)
        if digest in whole:
            surplus.pop(whole[digest], None)
        else:
            _make(experiment, arm, start, tags, digest)
    for run_id in surplus:
        experiment.client.delete_run(run_id)


def _make(
    experiment: Experiment, arm: ArmCurves, start: int, tags: dict[str, str], digest: str
) -> None:
    run_id = experiment.make_run(arm.name, tags, start).info.run_id
    metrics = [
        Metric(key, value, start, epoch)
        for key, values in arm.metrics.items()
        for epoch, value in enumerate(values, start=1)
    ]
    experiment.log(run_id, metrics, arm.params, {})
    experiment.client.set_terminated(run_id, "FINISHED", end_time=start)
    experiment.client.set_tag(run_id, _DIGEST_TAG, digest)


def _digest(arm: ArmCurves, start: int, tags: dict[str, str]) -> str:
    content = json.dumps([asdict(arm), start, tags], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
