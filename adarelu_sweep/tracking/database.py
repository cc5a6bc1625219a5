"""The database of the home's own MLflow server: a file of the home, or one of a database server."""

from contextlib import closing

from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.secrets import in_one_line

_CONNECT_TIMEOUT = 5  # seconds


def database_of(home: Home) -> str:
    """Return the address of the database, whether or not the home's server is up.

    Raises UserError where a database server does not let anybody in: MLflow itself would try again
    for minutes, and say so in its log alone.
    """
    address = home.tracking_storage()
    if address is None:
        return f"sqlite:///{home.mlflow_db}"
    how = {"connect_timeout": _CONNECT_TIMEOUT}
    try:
        with closing(create_engine(address, poolclass=NullPool, connect_args=how).connect()):
            return address
    except (SQLAlchemyError, ImportError) as error:
        said = in_one_line(getattr(error, "orig", None) or error)
        raise UserError(
            f"MLflow's records are in {address}, which cannot be used ({said}): start its server, "
            "with the password in PGPASSWORD or ~/.pgpass"
        ) from None
