"""Where studies are disturbed: one home, one server, and an undisturbed study to compare with."""

from collections.abc import Sequence
from pathlib import Path

from tests.chaos.books import differences
from tests.chaos.cases import Case
from tests.chaos.disturbed import DisturbedStudy
from tests.chaos.moments import Moments
from tests.chaos.studies import MATRIX
from tests.sweeps import Command

_ONE_SLOT = ("--workers", "1")
_UNDISTURBED = "undisturbed"


class Stage:
    """A home in a folder, which may be an earlier one's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._moments = Moments(folder / "moments")
        self.command = Command(folder / "home", **self._moments.environment())
        self._study = folder / "study.toml"
        self._study.write_text(MATRIX)

    def prepare(self) -> None:
        """Run the study that nothing disturbs, unless it was."""
        if not (self.command.home / "reports" / _UNDISTURBED / "report.json").exists():
            self.command.succeed("launch", self._study, *_ONE_SLOT)

    def play(self, name: str, cases: Sequence[Case]) -> DisturbedStudy:
        """Let one study suffer all cases; raise AssertionError where it does not come out right."""
        registers = any(case.target == "worker" and case.moment == "report" for case in cases)
        model = ("--set", "report.register_model=true") if registers else ()
        launch = (self._study, *_ONE_SLOT, *model)
        study = DisturbedStudy(self.command, self._moments, launch, name)
        try:
            study.suffer(cases)
            study.finish()
        finally:
            study.close()
        found = differences(self.command.home, name, _UNDISTURBED)
        assert not found, f"{name}:\n" + "\n".join(found)
        return study

    def close(self) -> None:
        """Stop the home's server."""
        self.command.close()
