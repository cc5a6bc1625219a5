"""Moving the studies of a home from its file to a database server, whole or not at all.

What was copied is compared before the home uses it; until then nothing of the home is changed. A
study counts as there once its plan is: the plans of all come last, and then the home's own switch.
"""

from collections.abc import Callable
from contextlib import ExitStack, closing

from filelock import FileLock
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.migrating.setting_aside import set_aside
from adarelu_sweep.recording.belonging import keep_launch, whereabouts
from adarelu_sweep.recording.databases import server_address
from adarelu_sweep.recording.lease import Lease
from adarelu_sweep.recording.ledger import PLAN, Ledger
from adarelu_sweep.secrets import without_password
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.wording import count

MOVED = "optuna-moved.db"
"""What the home's file is called once another database has taken its place."""
_MOVING = "adarelu_sweep.moving"  # which study it is a copy of


def migrate_studies(home: Home, address: str, say: Callable[[str], None]) -> None:
    """Move the studies of a home to a PostgreSQL database.

    Raises UserError, and changes nothing of the home, if one of them is being run or half deleted,
    if the database has another study of that name, if what was copied is not what stands in the
    home, or if a study was launched meanwhile. May be repeated, wherever it was cut off.
    """
    target = server_address(address, "--to")
    if home.storage is not None:
        if without_password(server_address(home.storage)) != without_password(target):
            raise UserError(f"the studies of {home.root} are in {home.shown_database} already")
        set_aside(home, home.optuna_db, MOVED)
        return say(f"the studies of {home.root} are in {home.shown_database}")
    moved = home.root / MOVED
    if moved.exists():
        raise UserError(f"{moved} is in the way: move it elsewhere, or remove it")
    with (
        closing(Ledger.existing(home.optuna_db)) as here,
        closing(Ledger(target)) as there,
        ExitStack() as rights,
    ):
        names = here.names()
        here.refuse_half_deleted()  # afterwards: one that is begun in between is not listed
        for name in names:
            rights.enter_context(Lease(home.study_folder(name), name))
            rights.enter_context(there.owned(name))
            _clear(there, here.open(name).record)
        for name in names:
            say(f"{name}: {count(_copy(here, there, name), 'trial')} copied and compared")
        with FileLock(home.switch_lock):
            home.require_unmoved()
            if here.names() != names:
                raise UserError("a study was launched or deleted meanwhile: repeat the command")
            for name in names:
                _publish(there, here.open(name).record, home)
            Home(home.root, address).keep_storage()  # from here on the home's studies are there
    set_aside(home, home.optuna_db, MOVED)
    say(f"the studies of {home.root} are in {without_password(address)}; {MOVED} is what was here")


def _clear(there: Ledger, record: StudyRecord) -> None:
    """Remove what a migration of this study has left; raise UserError for what is another's."""
    name = record.study.name
    for left in there.optuna_studies(name):
        ours = left.user_attrs.get(_MOVING)
        # Without a trial and a plan it is what was cut off before it was marked.
        empty = PLAN not in left.user_attrs and not there.storage.get_n_trials(left._study_id)
        if ours != record.uid and not empty:
            there.refuse_existing(name)
            raise UserError(
                f"the database holds an Optuna study {left.study_name!r} that is not "
                "adarelu-sweep's: give another"
            )
    there.delete(name)


def _copy(here: Ledger, there: Ledger, name: str) -> int:
    """Copy a study and the searches of its arms, and return how many trials they have."""
    uid = here.open(name).record.uid
    names = sorted(study.study_name for study in here.optuna_studies(name))
    return sum(_copy_study(here.storage, there.storage, each, uid) for each in names)


def _copy_study(source: RDBStorage, target: RDBStorage, name: str, uid: str) -> int:
    """Copy one Optuna study as ``optuna.copy_study`` does, but not its plan; compare it."""
    old = source.get_study_id_from_name(name)
    new = target.create_new_study(source.get_study_directions(old), name)
    target.set_study_user_attr(new, _MOVING, uid)
    for key, value in source.get_study_system_attrs(old).items():
        target.set_study_system_attr(new, key, value)
    for key, value in source.get_study_user_attrs(old).items():
        if key not in (PLAN, _MOVING):
            target.set_study_user_attr(new, key, value)
    trials = source.get_all_trials(old, deepcopy=False)
    for trial in trials:
        target.create_new_trial(new, trial)
    copied = target.get_all_trials(new, deepcopy=False)
    if [_content(trial) for trial in copied] != [_content(trial) for trial in trials]:
        raise UserError(f"the copy of {name!r} differs from what is here: nothing is moved")
    return len(trials)


def _publish(there: Ledger, record: StudyRecord, home: Home) -> None:
    """Set a study's plan, with which it exists; it says whose it is."""
    keep_launch(record, home)
    record = record.model_copy(update={"home": whereabouts(home)})
    study_id = there.storage.get_study_id_from_name(record.study.name)
    there.storage.set_study_user_attr(study_id, PLAN, record.model_dump_json())


def _content(trial: FrozenTrial) -> dict[str, object]:
    """Return all of a trial but the id that its database gave it."""
    return {key: value for key, value in vars(trial).items() if key != "_trial_id"}
