"""What a study has still to train, and in which order: the cells of its plan, or a search first."""

from collections import Counter, deque
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from optuna.trial import TrialState

from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.recording.books import Book
from adarelu_sweep.recording.ledger import StudyLedger
from adarelu_sweep.recording.trials import Counts, LedgerTrial
from adarelu_sweep.storing.places import Place
from adarelu_sweep.studies.plan import Cell, cells
from adarelu_sweep.supervising.results_places import results_of
from adarelu_sweep.supervising.search import ArmSearch
from adarelu_sweep.tracking.delivered import Delivered

_OPEN = {TrialState.RUNNING, TrialState.WAITING}


class Job:
    """A trial of the study: what it trains, where it stands, and the book that says so.

    Args:
        cell: What it trains.
        trial: Where it stands.
        book: What says so.
        folder: Its own in the home, with what was delivered of it.
        results: Where its worker leaves checkpoint, history and model.
        tally: How many trials of the study are in each state; kept up to date.
        search: The search that it is part of, which may end it early.
    """

    def __init__(
        self,
        cell: Cell,
        trial: LedgerTrial,
        book: Book,
        folder: Path,
        results: Place,
        tally: Counter[TrialState],
        search: ArmSearch | None = None,
    ) -> None:
        self.cell = cell
        self.book = book
        self.folder = folder
        self.results = results
        self.search = search
        self.pack = 1
        """How many trials its worker was given at once, itself included."""
        self.epochs_done = 0
        self.lost_in: int | None = None
        """The slot in which its worker was lost last."""
        self.alone = False
        """It is to have a worker to itself: what went wrong in a pack may be another's fault."""
        self.alone_on: str | None = None
        """The device whose memory it could not share; it is tried again alone there."""
        self._trial = trial
        self._tally = tally
        tally[trial.state] += 1

    @property
    def trial(self) -> LedgerTrial:
        """Where it stands."""
        return self._trial

    @trial.setter
    def trial(self, trial: LedgerTrial) -> None:
        self._tally[self._trial.state] -= 1
        self._tally[trial.state] += 1
        self._trial = trial

    @property
    def key(self) -> str:
        """Tells it from every other trial of the study: its Optuna number, in its book."""
        number = str(self.trial.number)
        return number if self.search is None else f"{self.search.book.index}/{number}"

    @property
    def lacking(self) -> float:
        """The share of its training that is still to be done."""
        return 1 - self.epochs_done / self.cell.settings.training.epochs

    def goes_with(self, other: "Job") -> bool:
        """Whether both can be trained in one pack: equal but for the seed, and to the last bit."""
        if self.search or other.search or self.alone or other.alone:
            return False
        same_threads = self.trial.threads == other.trial.threads
        return same_threads and _are_alike(self.cell, other.cell)


class Agenda:
    """The trials of a study, those to come included. Making and reading one changes nothing.

    ``take`` gives the next trial as long as there is one to give: what follows from a search can
    begin only when the last trials of that search have ended.
    """

    def __init__(self, ledger: StudyLedger, home: Home) -> None:
        self._ledger = ledger
        self._home = home
        self._study = ledger.record.study
        self.uid = ledger.record.uid
        """The study's."""
        self.study_name = self._study.name
        """What its study is called."""
        self._jobs: dict[str, Job] = {}
        self._tally: Counter[TrialState] = Counter()
        self._known = {trial.cell: trial for trial in ledger.trials()}
        self._cells: deque[Cell] = deque()  # never begun
        self._searches = [ArmSearch(self._study, book) for book in ledger.searches()]
        self._unconfirmed = list(self._searches)
        for search in self._searches:
            for trial in search.book.trials():
                self._enter(self._search_job(search, search.cell(trial), trial))
        if not self._searches:
            self._plan(cells(self._study))
        self._plan_confirmations()
        self._returned = deque(job for job in self._jobs.values() if job.trial.state in _OPEN)

    def jobs(self) -> list[Job]:
        """Return every trial that was ever begun."""
        return list(self._jobs.values())

    def counts(self) -> Counts:
        """Return how many trials are in which state; those to come wait."""
        total = len(self._jobs) + self._to_begin()
        return Counts.of(total, self._tally)

    def left(self) -> int:
        """Return how many trials have still to end."""
        return self._to_begin() + sum(self._tally[state] for state in _OPEN)

    def waiting(self) -> int:
        """Return how many trials nobody has in hand."""
        return self._to_begin() + len(self._returned)

    def has_failed(self) -> bool:
        """Return whether a trial failed for good, but for those that a search has replaced."""
        if any(job.trial.state is TrialState.FAIL and not job.search for job in self.jobs()):
            return True
        return any(self._falls_short(search) for search in self._searches)

    def retry_failed(self) -> None:
        """Let the failed trials wait again; of a search, as many as its budget lacks.

        What follows from them is known to an agenda that is made afterwards.
        """
        failed = [job for job in self.jobs() if job.trial.state is TrialState.FAIL]
        again = [job for job in failed if job.search is None]
        for search in self._searches:
            again += [job for job in failed if job.search is search][: self._lacking(search)]
        for job in again:
            # First: of a trial that failed and was delivered, a kill in between leaves a
            # delivery too many, the other way round one too few.
            Delivered.reopen(job.folder, self.uid)
            job.book.retry(job.trial)

    def take(self, slot: Slot, spread: bool = False) -> Job | None:
        """Begin the next trial, or take up one that waits; None if there is none for now.

        If ``spread``, one whose worker was lost in this slot is left to another slot, as long as
        there is something else to do here.
        """
        self._plan_confirmations()
        returned = [job for job in self._returned if job.alone_on is None]
        for job in returned:
            if not (spread and job.lost_in == slot.index):
                return self._take_up(job)
        return self._begin_next(slot.threads) or (self._take_up(returned[0]) if returned else None)

    def take_along(self, job: Job, most: int, slot: Slot, spread: bool = False) -> list[Job]:
        """Begin or take up what can be trained together with a trial in hand, so many at most.

        Trials of a search go alone. ``spread`` is as for ``take``.
        """
        if most < 1 or job.search or job.alone:
            return []

        def suits(other: Job) -> bool:
            elsewhere = spread and other.lost_in == slot.index != job.lost_in
            return other.alone_on is None and not elsewhere and other.goes_with(job)

        taken = [self._take_up(other) for other in list(filter(suits, self._returned))[:most]]
        if job.trial.threads == slot.threads:  # those of a trial that begins
            fresh = (cell for cell in self._cells if _are_alike(cell, job.cell))
            for cell in list(islice(fresh, most - len(taken))):
                self._cells.remove(cell)
                taken.append(self._begin(cell, slot.threads))
        return taken

    def reserved(self) -> set[str]:
        """Return the devices that a waiting trial is to have for itself."""
        return {job.alone_on for job in self._returned if job.alone_on is not None}

    def unreserve(self, device: str) -> None:
        """Let any device do for the trials that were to have one that is given up."""
        for job in self._returned:
            if job.alone_on == device:
                job.alone_on = None

    def take_alone(self, device: str) -> Job:
        """Take up a trial that is to have this device for itself."""
        return self._take_up(next(job for job in self._returned if job.alone_on == device))

    def _take_up(self, job: Job) -> Job:
        self._returned.remove(job)
        job.trial = job.book.resume(job.trial)
        return job

    def _begin_next(self, threads: int) -> Job | None:
        wanting = [search for search in self._searches if self._wanted(search) > 0]
        if wanting:  # in turn, so that an interrupted study has tried as much in every arm
            search = min(wanting, key=lambda search: len(self._trials_of(search)))
            return self._enter(self._search_job(search, *search.ask(threads)))
        return self._begin(self._cells.popleft(), threads) if self._cells else None

    def _begin(self, cell: Cell, threads: int) -> Job:
        self.keep_confirmed()
        return self._enter(self._job(cell, self._ledger.begin(cell, threads)))

    def keep_confirmed(self) -> None:
        """Record which settings are confirmed, of the searches that have ended."""
        ended = [search for search in self._searches if search not in self._unconfirmed]
        for search in [search for search in ended if search.book.first_confirmed is None]:
            if best := search.best(self._trials_of(search)):
                search.book.keep_confirmed(best.number)

    def put_back(self, job: Job) -> None:
        """Let an unfinished trial wait, next in line."""
        job.trial = job.book.hand_back(job.trial)
        self._returned.appendleft(job)

    # The plan

    def _plan(self, wanted: Iterable[Cell]) -> None:
        for cell in wanted:
            if trial := self._known.get(cell.key):
                self._enter(self._job(cell, trial))
            else:
                self._cells.append(cell)

    def _plan_confirmations(self) -> None:
        """Plan the fresh seeds of the arms whose search has ended; seeds vary slowest."""
        for search in [search for search in self._unconfirmed if self._has_ended(search)]:
            self._unconfirmed.remove(search)
            best = search.best(self._trials_of(search))
            if best is not None:
                self._plan(search.confirmed(best, seed) for seed in self._study.confirm_seeds())
                seeds = self._study.confirm_seeds()
                self._cells = deque(sorted(self._cells, key=lambda c: seeds.index(c.settings.seed)))

    def _has_ended(self, search: ArmSearch) -> bool:
        open_trials = any(trial.state in _OPEN for trial in self._trials_of(search))
        return not open_trials and self._wanted(search) == 0

    def _wanted(self, search: ArmSearch) -> int:
        """Return how many trials of a search are to be begun yet.

        A failed one does not count and is replaced, until as many have failed as were wanted.
        """
        return 0 if self._falls_short(search) else self._lacking(search)

    def _lacking(self, search: ArmSearch) -> int:
        """Return how many trials of a search's budget have neither ended well nor begun."""
        failed = [trial.state is TrialState.FAIL for trial in self._trials_of(search)]
        return max(0, search.budget - failed.count(False))

    def _falls_short(self, search: ArmSearch) -> bool:
        """Return whether so many trials of a search have failed that its budget is not met."""
        failed = sum(trial.state is TrialState.FAIL for trial in self._trials_of(search))
        return failed >= search.budget

    def _to_begin(self) -> int:
        """Return how many trials were never begun, as far as can be told."""
        searched = sum(map(self._wanted, self._searches))
        if not self._unconfirmed:
            return searched + len(self._cells)
        confirmed = len(self._unconfirmed) * len(self._study.confirm_seeds())
        return searched + confirmed + len(self._cells)

    # Jobs

    def _enter(self, job: Job) -> Job:
        self._jobs[job.cell.key] = job
        return job

    def _job(self, cell: Cell, trial: LedgerTrial) -> Job:
        folder = self._home.trial_folder(self._study.name, trial.number)
        return Job(cell, trial, self._ledger, folder, self._results(folder), self._tally)

    def _search_job(self, search: ArmSearch, cell: Cell, trial: LedgerTrial) -> Job:
        book = search.book
        folder = self._home.search_trial_folder(self._study.name, book.index, trial.number)
        return Job(cell, trial, book, folder, self._results(folder), self._tally, search)

    def _results(self, folder: Path) -> Place:
        return results_of(folder, self._ledger.record, self._home)

    def _trials_of(self, search: ArmSearch) -> list[LedgerTrial]:
        return [job.trial for job in self._jobs.values() if job.search is search]


def _are_alike(one: Cell, other: Cell) -> bool:
    """Return whether two cells differ in nothing but the seed."""
    if one.settings.arm != other.settings.arm:  # most of them, and soon told
        return False
    return one.settings == other.settings.model_copy(update={"seed": one.settings.seed})
