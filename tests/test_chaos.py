"""Signals to every process at every moment; here as few cases as hold every pair of these."""

import signal
from collections.abc import Iterator

import pytest

from tests.chaos.books import Books
from tests.chaos.cases import Case, pairwise, whole
from tests.chaos.matrix import play, undisturbed
from tests.chaos.processes import send, server
from tests.chaos.stage import Stage
from tests.waiting import PATIENCE, wait_until


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("chaos"))
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def reference(stage: Stage) -> Books:
    return undisturbed(stage)


def pairs(cases: list[Case]) -> set[tuple[object, object]]:
    found: set[tuple[object, object]] = set()
    for case in cases:
        moment = "end" if case.moment == "books" else case.moment
        found |= {(case.signal, case.target), (case.signal, moment), (case.target, moment)}
    return found


def test_the_cases_below_hold_every_pair_of_the_whole_matrix() -> None:
    few = [case for cases in pairwise().values() for case in cases]
    all_of_them = [case for cases in whole().values() for case in cases]
    assert len(all_of_them) == len(set(all_of_them)) == 4 * 4 * 8
    assert pairs(few) == pairs(all_of_them)


LONGEST = ("pairs-everything", "pairs-supervisor")
CHAINS = [
    pytest.param(chain, marks=pytest.mark.longest if chain in LONGEST else pytest.mark.long)
    for chain in pairwise()
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("chain", CHAINS)
def test_nothing_is_lost(stage: Stage, reference: Books, chain: str) -> None:
    outcome = play(stage, reference, chain, pairwise()[chain])
    assert outcome.cases == 7
    again = outcome.begun - outcome.epochs
    # Training does not notice what becomes of the server; the others were hit in an epoch.
    assert again == 0 if chain == "pairs-server" else again > 0


@pytest.mark.longest
@pytest.mark.timeout(900)
def test_nothing_is_lost_in_packs(stage: Stage, reference: Books) -> None:
    """The reference is the one without: who is trained together does not show."""
    chain = "pairs-worker"
    assert play(stage, reference, f"{chain}-packed", pairwise()[chain], pack=2).cases == 7


@pytest.mark.long
def test_a_server_that_is_killed_in_its_first_start_comes_up_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Neither the database of the records is spoiled, nor, later on, that of the users."""
    stage = Stage(tmp_path_factory.mktemp("first-start"))
    login = {
        "MLFLOW_TRACKING_USERNAME": "boss",
        "MLFLOW_TRACKING_PASSWORD": "as long as MLflow wants",
    }
    stage.command.environment.update(login)
    try:
        for asking in ((), ("--auth",)):
            stage.moments.arm("migration")
            process = stage.command.start("server", "start", *asking)
            wait_until(lambda: stage.moments.holder("migration"), "the migration")
            send(server(stage.command.home), signal.SIGKILL)
            stage.moments.release()
            process.communicate(timeout=PATIENCE)
            url = stage.command.succeed("server", "start", *asking)
            assert url.startswith("http://127.0.0.1:")
            stage.command.succeed("server", "stop")
    finally:
        stage.close()
