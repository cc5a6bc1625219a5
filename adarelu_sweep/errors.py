"""The one exception for what a user can cause and can mend."""


class UserError(Exception):
    """Bad input: its message is one clear line that says what to do.

    The command line prints it as ``Error: MESSAGE`` and exits with 2, without a traceback. Anything
    else that is raised is a bug or a broken machine, and keeps its traceback.
    """
