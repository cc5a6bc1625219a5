"""What a killed MLflow server leaves of the uploads that it had in hand.

MLflow writes an artifact beside its place, under a name that it lists nowhere, before it puts it
there. The upload itself is repeated by whoever sent it; what is left would only fill the disk.
"""

from contextlib import suppress
from pathlib import Path

from adarelu_sweep.storing.places import Place

_PATTERN = ".artifact.uploading.*"


def remove_half_uploads(artifacts: Place) -> None:
    """Remove them below a folder, while no server writes there; in a store no half is seen."""
    for left in artifacts.rglob(_PATTERN) if isinstance(artifacts, Path) else ():
        with suppress(OSError):
            left.unlink()
