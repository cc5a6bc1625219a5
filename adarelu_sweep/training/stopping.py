"""How training ends when it is asked to."""


class StopRequestedError(Exception):
    """Training was asked to stop; the epoch in progress is given up, the checkpoint stands."""
