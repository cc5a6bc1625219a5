"""Prepares data sets while the workers import torch: ``python -m THIS_MODULE FOLDER NAME...``.

Whatever goes wrong here, a worker does itself, and says what there is to say.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from adarelu_sweep.datasets.prepared_file import prepare
from adarelu_sweep.errors import UserError
from adarelu_sweep.processes import die_with_parent

NICENESS = 5  # a worker's


def main() -> None:
    """Prepare the data sets that the arguments name."""
    die_with_parent()
    os.nice(NICENESS)
    folder, *names = sys.argv[1:]
    for name in names:
        with suppress(OSError, UserError):
            prepare(name, Path(folder))


if __name__ == "__main__":
    main()
