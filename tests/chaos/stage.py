"""Where studies run: a home and its server, and what holds and counts within their processes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.books import Books
from tests.chaos.moments import Moments
from tests.chaos.supervised import SupervisedStudy
from tests.sweeps import Command


class Stage:
    """A home in a folder of its own, which may be an earlier stage's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._epochs = folder / "epochs.txt"
        self.moments = Moments(folder / "moments")
        inside = self.moments.environment() | {"CHAOS_EPOCHS": str(self._epochs)}
        self.command = Command(folder / "home", **inside)

    def study(self, text: str, name: str, options: Sequence[str] = ()) -> SupervisedStudy:
        """Return a study, not started yet."""
        path = self._folder / f"{name}.toml"
        path.write_text(text)
        return SupervisedStudy(self.command, (path, *options), name)

    def reference(self, text: str, name: str, options: Sequence[str] = ()) -> Books:
        """Return the books of a study that nothing disturbs; run it, unless it was."""
        if not (self.command.home / "reports" / name / "report.json").exists():
            study = self.study(text, name, options)
            study.start()
            study.expect({0})
        return Books(self.command.home, name)

    def books(self, study: SupervisedStudy) -> Books:
        """Return the books of a study that was finished."""
        return Books(study.home, study.name)

    def begun(self, books: Books) -> int:
        """Return how many epochs were begun; raise AssertionError where more than need be were.

        Every attempt at a trial but the last may have lost the epoch that it had in hand, and the
        one before if its checkpoint was not whole yet. A search's trials wait for theirs, because
        those of the stage are pruned.
        """
        lines = self._epochs.read_text().splitlines() if self._epochs.exists() else []
        times = Counter(lines)
        for trial in books.trials:
            kept = len(books.histories[trial.key].epochs)
            waits = trial.folder.parent.name.startswith("search-")
            lost = (1 if waits else 2) * (trial.optuna.user_attrs["attempts"] - 1)
            most = kept + lost
            begun = times[str(trial.folder)]
            assert kept <= begun <= most, (
                f"{trial.key}: {begun} epochs begun for {kept}, {lost} lost at most"
            )
        return sum(times[str(trial.folder)] for trial in books.trials)

    def close(self) -> None:
        """Stop the home's server."""
        self.command.close()
