"""Reading a study's trials from Optuna's tables, without the values of every epoch.

Optuna's own reading brings those along: of 10,000 trials of 100 epochs, a million rows.
"""

import json
from collections import defaultdict
from typing import Any

from optuna.distributions import json_to_distribution
from optuna.trial import TrialState
from sqlalchemy import Engine, text

from adarelu_sweep.components import Scalar
from adarelu_sweep.recording.opening import damage_explained
from adarelu_sweep.recording.trials import CELL, LedgerTrial, ledger_trial

_TRIALS = text("SELECT trial_id, number, state FROM trials WHERE study_id = :study ORDER BY number")
_ATTRIBUTES = text(
    "SELECT a.trial_id, a.key, a.value_json FROM trial_user_attributes a "
    "JOIN trials t ON t.trial_id = a.trial_id WHERE t.study_id = :study"
)
_PARAMS = text(
    "SELECT p.trial_id, p.param_name, p.param_value, p.distribution_json FROM trial_params p "
    "JOIN trials t ON t.trial_id = p.trial_id WHERE t.study_id = :study ORDER BY p.param_id"
)


def read_trials(engine: Engine, study_id: int) -> list[LedgerTrial]:
    """Return the trials of an Optuna study that have a cell, in the order of their numbers."""
    attributes: dict[int, dict[str, Any]] = defaultdict(dict)
    params: dict[int, dict[str, Scalar]] = defaultdict(dict)
    study = {"study": study_id}
    with damage_explained(), engine.connect() as connection:
        for trial_id, key, value in connection.execute(_ATTRIBUTES, study):
            attributes[trial_id][key] = json.loads(value)
        for trial_id, name, value, distribution in connection.execute(_PARAMS, study):
            external = json_to_distribution(distribution).to_external_repr(value)
            params[trial_id][name] = external
        return [
            _checked(
                ledger_trial(
                    trial_id, number, TrialState[state], attributes[trial_id], params[trial_id]
                )
            )
            for trial_id, number, state in connection.execute(_TRIALS, study)
            if CELL in attributes[trial_id]
        ]


def _checked(trial: LedgerTrial) -> LedgerTrial:
    """Raise TypeError for a trial whose attributes are of other types than a ledger writes."""
    numbers = (trial.attempts, trial.threads, trial.losses)
    texts = (trial.cell, trial.error or "")
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError(f"trial {trial.number} counts with what is no number")
    if not (all(isinstance(text, str) for text in texts) and isinstance(trial.tags, dict)):
        raise TypeError(f"trial {trial.number} has no cell")
    return trial
