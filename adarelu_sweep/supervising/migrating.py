"""Moving the studies of a home from its file to a database server, whole or not at all.

What was copied is compared before the home uses it; until then nothing of the home is changed. A
study counts as there once its plan is, which comes last.
"""

from collections.abc import Callable
from contextlib import ExitStack, closing

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.secrets import without_password
from adarelu_sweep.supervising.lease import Lease
from adarelu_sweep.supervising.ledger import PLAN, Ledger
from adarelu_sweep.wording import count

MOVED = "optuna-moved.db"
"""What the home's file is called once another database has taken its place."""
_MOVING = "adarelu_sweep.moving"


def migrate(home: Home, address: str, say: Callable[[str], None]) -> None:
    """Move the studies of a home to a PostgreSQL database.

    Raises UserError, and changes nothing of the home, if one of them is being run, if the database
    has a study of that name, or if what was copied is not what stands in the home.
    """
    if home.storage is not None:
        raise UserError(f"the studies of {home.root} are in {home.shown_database} already")
    moved = home.root / MOVED
    if moved.exists():
        raise UserError(f"{moved} is in the way: move it elsewhere, or remove it")
    with (
        closing(Ledger.existing(home.optuna_db)) as here,
        closing(Ledger(address)) as there,
        ExitStack() as leases,
    ):
        names = here.names()
        for name in names:
            leases.enter_context(Lease(home.study_folder(name), name))
            there.refuse_existing(name)
        for name in names:
            with there.owned(name):
                trials = _copy(here, there, name)
            say(f"{name}: {count(trials, 'trial')} copied and compared")
    Home(home.root, address).create()  # from here on the home has its studies there
    home.optuna_db.rename(moved)
    say(f"the studies of {home.root} are in {without_password(address)}; {MOVED} is what was here")


def _copy(here: Ledger, there: Ledger, name: str) -> int:
    """Copy a study and the searches of its arms, and return how many trials they have."""
    for left in there.optuna_studies(name):  # by a migration that was cut off, or by others
        if _MOVING not in left.user_attrs and there.storage.get_n_trials(left._study_id):
            raise UserError(
                f"the database holds an Optuna study {left.study_name!r} that is not "
                "adarelu-sweep's: give another"
            )
    there.delete(name)
    names = sorted((study.study_name for study in here.optuna_studies(name)), reverse=True)
    return sum(_copy_study(here.storage, there.storage, each) for each in names)  # its own last


def _copy_study(source: RDBStorage, target: RDBStorage, name: str) -> int:
    """Copy one Optuna study as ``optuna.copy_study`` does, but its plan last; compare it."""
    old = source.get_study_id_from_name(name)
    new = target.create_new_study(source.get_study_directions(old), name)
    target.set_study_user_attr(new, _MOVING, True)
    attributes = source.get_study_user_attrs(old)
    for key, value in source.get_study_system_attrs(old).items():
        target.set_study_system_attr(new, key, value)
    for key in sorted(attributes.keys() - {PLAN}):
        target.set_study_user_attr(new, key, attributes[key])
    trials = source.get_all_trials(old, deepcopy=False)
    for trial in trials:
        target.create_new_trial(new, trial)
    copied = target.get_all_trials(new, deepcopy=False)
    if [_content(trial) for trial in copied] != [_content(trial) for trial in trials]:
        raise UserError(f"the copy of {name!r} differs from what is here: nothing is moved")
    if PLAN in attributes:
        target.set_study_user_attr(new, PLAN, attributes[PLAN])
    return len(trials)


def _content(trial: FrozenTrial) -> dict[str, object]:
    """Return all of a trial but the id that its database gave it."""
    return {key: value for key, value in vars(trial).items() if key != "_trial_id"}
