"""Writing a study's trials into Optuna's tables: whatever is changed, in one transaction.

Optuna's own interface commits an attribute and a state apart from each other, and asks before it
sets: the dispatch of a trial takes it 20 statements, each through its object mapper, for these 4. A
database whose tables are another version's is refused when it is opened.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    Engine,
    Enum,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    select,
)

_TABLES = MetaData()
_TRIALS = Table(
    "trials",
    _TABLES,
    Column("trial_id", Integer, primary_key=True),
    Column("number", Integer),
    Column("study_id", Integer),
    Column("state", Enum(TrialState)),
    Column("datetime_start", DateTime),  # UTC, without saying so
    Column("datetime_complete", DateTime),
)
_ATTRIBUTES = Table(
    "trial_user_attributes",
    _TABLES,
    Column("trial_user_attribute_id", Integer, primary_key=True),
    Column("trial_id", Integer),
    Column("key", String),
    Column("value_json", Text),
)
_VALUES = Table(
    "trial_values",
    _TABLES,
    Column("trial_value_id", Integer, primary_key=True),
    Column("trial_id", Integer),
    Column("objective", Integer),
    Column("value", Float),
    Column("value_type", Enum("FINITE", "INF_POS", "INF_NEG", name="trialvaluetype")),
)


def insert_trial(engine: Engine, study_id: int, attributes: Mapping[str, Any]) -> tuple[int, int]:
    """Add a trial that runs to an Optuna study, and return its id and its number."""
    with engine.begin() as connection:
        row = {"study_id": study_id, "state": TrialState.RUNNING, "datetime_start": _now()}
        inserted = connection.execute(_TRIALS.insert().values(row)).inserted_primary_key
        assert inserted is not None
        trial_id: int = inserted[0]
        # Optuna counts all that were before, which takes ever longer.
        before = connection.scalars(
            select(_TRIALS.c.number)
            .where(_TRIALS.c.study_id == study_id, _TRIALS.c.trial_id < trial_id)
            .order_by(_TRIALS.c.trial_id.desc())
            .limit(1)
        ).one_or_none()
        number = 0 if before is None else before + 1
        connection.execute(
            _TRIALS.update().where(_TRIALS.c.trial_id == trial_id).values(number=number)
        )
        _insert_attributes(connection, trial_id, attributes)
    return trial_id, number


def find_trial(engine: Engine, study_id: int, key: str, value: Any) -> tuple[int, int] | None:
    """Return id and number of the study's trial that has an attribute of this value."""
    has = (_ATTRIBUTES.c.key == key) & (_ATTRIBUTES.c.value_json == json.dumps(value))
    sought = select(_TRIALS.c.trial_id, _TRIALS.c.number).where(
        _TRIALS.c.study_id == study_id,
        _TRIALS.c.trial_id.in_(select(_ATTRIBUTES.c.trial_id).where(has)),
    )
    with engine.connect() as connection:
        found = connection.execute(sought).one_or_none()
    return (found.trial_id, found.number) if found else None


def change_trial(
    engine: Engine,
    trial_id: int,
    state: TrialState | None = None,
    value: float | None = None,
    attributes: Mapping[str, Any] | None = None,
    forgotten: Sequence[str] = (),
    failed: bool = False,
) -> None:
    """Set a trial's state, its objective's value and attributes, those that are given, at once.

    May be repeated at will. Raises UpdateFinishedTrialError for a trial that has ended in another
    way, unless it is ``failed`` as is said.
    """
    attributes = attributes or {}
    with engine.begin() as connection:
        before = connection.scalars(
            select(_TRIALS.c.state).where(_TRIALS.c.trial_id == trial_id)
        ).one()
        if before.is_finished() and not (failed and before is TrialState.FAIL):
            if before is state and _stand(connection, trial_id, attributes):
                return  # it was done, and the answer was lost
            raise UpdateFinishedTrialError(f"trial {trial_id} has ended: {before.name}")
        if state is not None:
            row: dict[str, Any] = {
                "state": state,
                "datetime_complete": _now() if state.is_finished() else None,
            }
            if state is TrialState.RUNNING:
                row["datetime_start"] = _now()
            connection.execute(_TRIALS.update().where(_TRIALS.c.trial_id == trial_id).values(row))
        if value is not None:
            connection.execute(_VALUES.delete().where(_VALUES.c.trial_id == trial_id))
            finite = {"trial_id": trial_id, "objective": 0, "value": value, "value_type": "FINITE"}
            connection.execute(_VALUES.insert().values(finite))
        if keys := [*attributes, *forgotten]:
            own = (_ATTRIBUTES.c.trial_id == trial_id) & _ATTRIBUTES.c.key.in_(keys)
            connection.execute(_ATTRIBUTES.delete().where(own))
        _insert_attributes(connection, trial_id, attributes)


def _stand(connection: Connection, trial_id: int, attributes: Mapping[str, Any]) -> bool:
    """Return whether a trial has these attributes."""
    columns = _ATTRIBUTES.c
    rows = connection.execute(
        select(columns.key, columns.value_json).where(
            columns.trial_id == trial_id, columns.key.in_(attributes)
        )
    )
    return {key: json.loads(value) for key, value in rows} == attributes


def _insert_attributes(
    connection: Connection, trial_id: int, attributes: Mapping[str, Any]
) -> None:
    if attributes:
        rows = [
            {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
            for key, value in attributes.items()
        ]
        connection.execute(_ATTRIBUTES.insert(), rows)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
