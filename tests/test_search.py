"""Search, then confirm: the table [search], the books of the arms, and whole searches."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from adarelu_sweep.errors import UserError
from adarelu_sweep.home import Home
from adarelu_sweep.launching.launcher import Slot
from adarelu_sweep.recording.ledger import Ledger, StudyLedger
from adarelu_sweep.recording.trials import TrialResult
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.studies.record import StudyRecord
from adarelu_sweep.studies.registry import PRUNERS, SAMPLERS
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.supervising.agenda import Agenda, Job
from adarelu_sweep.supervising.search import ArmSearch, _suggest
from adarelu_sweep.training.history import History
from tests.sweeps import Command
from tests.waiting import wait_until

STUDIES = Path(__file__).parents[1] / "studies"
SLOT = Slot(0, threads=1)

SEARCH = """
name = "tuned"
[matrix]
dataset = "digits"
network = { name = "vgg16_bn", width = 0.0625 }
activation = ["relu", "leaky_relu"]
[data]
train_limit = 200
test_limit = 80
[training]
epochs = 2
optimizer = { name = "sgd", lr = 0.05, momentum = 0.9 }
[search]
trials = 4
validation_fraction = 0.25
confirm_seeds = 2
sampler = { name = "tpe", n_startup_trials = 2 }
[search.space]
"optimizer.lr" = { low = 1e-3, high = 0.3, log = true }
"training.batch_size" = { low = 16, high = 64, step = 16 }
"activation.negative_slope" = { low = 0, high = 1 }
[report]
figures = false
register_model = false
"""


@pytest.fixture
def search_file(tmp_path: Path) -> Path:
    path = tmp_path / "tuned.toml"
    path.write_text(SEARCH)
    return path


def read(tmp_path: Path, *overrides: str) -> Study:
    path = tmp_path / "tuned.toml"
    path.write_text(SEARCH)
    return read_study(path, overrides)


# The table [search]


def test_a_search_survives_the_way_through_the_plan(tmp_path: Path) -> None:
    study = read(tmp_path)
    assert Study.model_validate_json(study.model_dump_json()) == study


def test_seeds(tmp_path: Path) -> None:
    assert read(tmp_path).matrix.seeds == [0]
    assert read(tmp_path).confirm_seeds() == [1, 2]
    assert read(tmp_path, "matrix.seeds=[3,9]").confirm_seeds() == [10, 11]
    assert read(tmp_path, "search.confirm_seeds=[7,5]").confirm_seeds() == [7, 5]


def test_an_arm_is_searched_in_the_fields_that_it_has(tmp_path: Path) -> None:
    study = read(tmp_path)
    assert study.search is not None
    spaces = {
        arm.activation.name: study.search.space_of(arm.settings(study, 0)) for arm in study.arms()
    }
    shared = {"training.optimizer.lr", "training.batch_size"}
    assert set(spaces["relu"]) == shared
    assert set(spaces["leaky_relu"]) == shared | {"activation.negative_slope"}
    slope = spaces["leaky_relu"]["activation.negative_slope"]
    assert isinstance(slope.low, float)  # 0 to 1 is a range of floats, as the field is one


def test_an_argument_of_a_users_own_activation_is_searched(tmp_path: Path) -> None:
    own = '{name="tests.own_parts:Drawing",numbers=2}'
    study = read(
        tmp_path,
        f"matrix.activation=[{own}]",
        SPACE.format('"activation.numbers"={low=1,high=4}'),
    )
    home = Home(tmp_path / "home")
    jobs = work_off(Agenda(ledger_of(study, home), home))
    numbers = {job.cell.settings.activation.arguments["numbers"] for job in jobs}
    assert numbers <= {1, 2, 3, 4}
    assert len(numbers) > 1
    assert {job.cell.settings.arm for job in jobs} == {
        "digits/vgg16_bn(width=0.0625)/tests.own_parts:Drawing(numbers=2)"
    }


SPACE = "search.space={{{}}}"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("search.validation_fraction=0", "search: a search without a validation split"),
        ("search.validation_fraction=1", "search.validation_fraction: 1"),
        ("search.trials=0", "search.trials: 0"),
        ("search.tirals=3", "did you mean 'trials'?"),
        ("search.confirm_seeds=0", "search.confirm_seeds"),
        ("search.confirm_seeds=[5,5]", "a seed is listed twice"),
        ("search.confirm_seeds=1000001", "search.confirm_seeds"),
        ('search.pruner={name="hyperband",min_resource=2}', "it would end no trial of 2 epochs"),
        ('search.pruner={name="median",n_warmup_steps=9}', "n_warmup_steps = 9"),
        ("search.confirm_seeds=[0,1]", "0 is a seed of the search too"),
        ("search.sampler=tpa", "did you mean 'tpe'?"),
        ("search.pruner=halving", "did you mean"),
        ("search.sampler=cmaes", None),
        ("matrix.activation=[]", "matrix.activation"),
        ("data.train_limit=1", "one image cannot be split"),
        (SPACE.format('"optimizer.rl"={low=1,high=2}'), "did you mean 'training.optimizer.lr'?"),
        (SPACE.format('"optimizer.lr"={low=0.1}'), "give low and high"),
        (SPACE.format('"optimizer.lr"={low=2,high=1}'), "low = 2 is above high = 1"),
        (SPACE.format('"optimizer.lr"={low=0,high=1,log=true}'), "log = true needs a low above 0"),
        (SPACE.format('"optimizer.lr"={low=-1,high=1}'), "sgd.lr = -1.0: input should be greater"),
        (SPACE.format('"optimizer.lr"={lo=-1,high=1}'), "did you mean 'low'?"),
        (SPACE.format('"optimizer.lr"={low=0.1,high=1,choices=[1]}'), "either choices or low"),
        (SPACE.format('"optimizer.lr"={choices=[0.1,0.1]}'), "a choice is listed twice"),
        (SPACE.format('"schedule"={choices=["cosine","foo"]}'), "unknown schedule 'foo'"),
        (SPACE.format('"epochs"={low=1,high=2}'), "training.epochs cannot be searched"),
        (SPACE.format('"batch_size"={low=0.5,high=2.5}'), "batch_size"),
        (SPACE.format('"activation.negative_slope"={low=0,high=1}'), "is a field of digits/"),
        (SPACE.format('"seed"={low=0,high=1}'), "unknown field of a trial"),
    ],
)
def test_what_cannot_be_searched_is_said_in_one_line(
    tmp_path: Path, override: str, says: str | None
) -> None:
    if says is None:
        read(tmp_path, override)
        return
    with pytest.raises(UserError) as error:
        read(tmp_path, override)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_cmaes_is_refused_where_it_would_draw_at_random(tmp_path: Path) -> None:
    space = SPACE.format('"optimizer.lr"={low=1e-3,high=0.3,log=true}')
    with pytest.raises(UserError, match="cmaes needs two numbers"):
        read(tmp_path, "search.sampler=cmaes", space)


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.toml")), ids=lambda file: file.stem)
def test_the_studies_that_come_with_it_are_valid(file: Path) -> None:
    study = read_study(file)
    assert study.name == file.stem
    searched = [arm for arm in study.arms() if study.search]
    assert len(searched) == (len(list(study.arms())) if file.stem.startswith("tune-") else 0)


# The agenda of a search, over a real ledger, with results made up in place of training


def ledger_of(study: Study, home: Home) -> StudyLedger:
    home.create()
    record = StudyRecord(uid="u", study=study, source="", created="", version="")
    return Ledger(home.optuna_db).create(record)


def result(accuracy: float, diverged: bool = False) -> TrialResult:
    return TrialResult(
        accuracy=accuracy, loss=None if diverged else 1.0, epochs=2, diverged=diverged
    )


def pretend(job: Job) -> None:
    """End a job as training would: better the nearer its learning rate is to 0.05."""
    rate = float(job.cell.settings.training.optimizer.arguments["lr"])
    accuracy = 100 - 100 * abs(rate - 0.05)
    job.book.report(job.trial, 1, accuracy / 2)
    if job.search is not None and job.search.should_prune(job.trial):
        job.trial = job.book.prune(job.trial, result(accuracy / 2))
    else:
        job.book.report(job.trial, 2, accuracy)
        job.trial = job.book.complete(job.trial, result(accuracy))


def work_off(agenda: Agenda) -> list[Job]:
    done = []
    while (job := agenda.take(SLOT)) is not None:
        pretend(job)
        done.append(job)
    return done


def eager(sampler: str) -> str:
    """A sampler that soon goes by what it has seen, where it would draw at random first."""
    return f'{{name="{sampler}",n_startup_trials=2}}' if sampler in {"tpe", "gp"} else sampler


def values(job: Job) -> tuple[str, dict[str, Any]]:
    return job.cell.key, job.cell.settings.flattened()


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [
        *((sampler, "median") for sampler in SAMPLERS.names()),
        *(("tpe", pruner) for pruner in PRUNERS.names() if pruner != "median"),
    ],
)
def test_every_arm_gets_its_trials_and_then_fresh_seeds(
    tmp_path: Path, sampler: str, pruner: str
) -> None:
    study = read(tmp_path, f"search.sampler={eager(sampler)}", f"search.pruner={pruner}")
    ledger = ledger_of(study, Home(tmp_path / "home"))
    agenda = Agenda(ledger, Home(tmp_path / "home"))
    assert agenda.left() == 2 * 4 + 2 * 2
    jobs = work_off(agenda)
    assert agenda.left() == 0
    assert agenda.counts().waiting == 0
    searched = [job for job in jobs if job.search is not None]
    confirmed = [job for job in jobs if job.search is None]
    for book in ledger.searches():
        assert len([job for job in searched if job.book.name == book.name]) == 4
        finished = [TrialState.COMPLETE, TrialState.PRUNED]
        assert all(trial.state in finished for trial in book.trials())
    assert {job.cell.settings.seed for job in searched} == {0}
    assert [job.cell.settings.seed for job in confirmed] == [1, 1, 2, 2]
    assert all(job.cell.settings.measured_on == "val" for job in searched)
    assert all(job.cell.settings.measured_on == "test" for job in confirmed)
    for job in confirmed:
        rivals = [j for j in searched if j.cell.settings.arm == job.cell.settings.arm]
        complete = [j for j in rivals if j.trial.state is TrialState.COMPLETE]
        best = max(complete, key=lambda j: j.trial.result.accuracy if j.trial.result else 0)
        assert job.cell.settings.training == best.cell.settings.training
        assert job.cell.settings.activation == best.cell.settings.activation
    assert len({job.folder for job in jobs}) == len({job.key for job in jobs}) == len(jobs)


@pytest.mark.parametrize("sampler", SAMPLERS.names())
def test_a_search_that_is_taken_up_again_goes_on_as_if_undisturbed(
    tmp_path: Path, sampler: str
) -> None:
    """At every trial the supervisor dies with it in hand; the next one finds it and goes on."""
    study = read(tmp_path, f"search.sampler={eager(sampler)}", "search.trials=6")
    undisturbed = Home(tmp_path / "undisturbed")
    expected = [values(job) for job in work_off(Agenda(ledger_of(study, undisturbed), undisturbed))]
    home = Home(tmp_path / "disturbed")
    ledger = ledger_of(study, home)
    got = []
    while True:
        first = Agenda(ledger, home).take(SLOT)
        if first is None:
            break
        ledger.repair()
        again = Agenda(ledger, home).take(SLOT)
        assert again is not None
        assert values(again) == values(first)
        assert again.trial.attempts == 2
        pretend(again)
        got.append(values(again))
    assert got == expected


def test_a_trial_whose_making_was_cut_off_is_made_whole(tmp_path: Path) -> None:
    study, home = read(tmp_path, "search.sampler=random"), Home(tmp_path / "home")
    undisturbed = Home(tmp_path / "undisturbed")
    expected = Agenda(ledger_of(study, undisturbed), undisturbed).take(SLOT)
    ledger = ledger_of(study, home)
    book = ledger.searches()[0]
    optuna.load_study(study_name=book.name, storage=f"sqlite:///{home.optuna_db}").ask()
    assert book.trials() == []
    job = Agenda(ledger, home).take(SLOT)
    assert job is not None
    assert expected is not None
    assert values(job) == values(expected)
    assert [trial.number for trial in book.trials()] == [0]


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", "cmaes", "gp"])
def test_a_kill_amid_the_parameters_of_a_trial_changes_none(tmp_path: Path, sampler: str) -> None:
    """Every parameter is written by itself; those of the others go on as if nothing had been."""
    study = read(tmp_path, f"search.sampler={sampler}", "matrix.activation=leaky_relu")
    proposed: list[list[dict[str, Any]]] = []
    for cut_off in (False, True):
        home = Home(tmp_path / f"home-{cut_off}")
        book = ledger_of(study, home).searches()[0]
        proposals = []
        for number in range(4):
            search = ArmSearch(study, book)
            if cut_off:
                cut = _cut_off(search, 1 + number % 2)
                with pytest.raises(KeyboardInterrupt):
                    book.ask(search._sampler, search._pruner, cut, 1)
            _, trial = search.ask(threads=1)
            proposals.append(trial.params)
            book.complete(trial, TrialResult(50.0 + number, 1.0, 2, False))
        proposed.append(proposals)
    assert proposed[0] == proposed[1]


def _cut_off(search: ArmSearch, parameters: int) -> Callable[[optuna.Trial], Any]:
    def suggest(trial: optuna.Trial) -> Any:
        for key, dimension in list(search._space.items())[:parameters]:
            _suggest(trial, key, dimension)
        raise KeyboardInterrupt

    return suggest


def test_equal_spaces_are_searched_from_equal_points(tmp_path: Path) -> None:
    study = read(
        tmp_path,
        "search.sampler=random",
        SPACE.format('"optimizer.lr"={low=1e-3,high=0.3,log=true}'),
    )
    home = Home(tmp_path / "home")
    jobs = work_off(Agenda(ledger_of(study, home), home))
    rates: dict[str, list[Any]] = {}
    for job in jobs:
        if job.search is not None:
            rate = job.cell.settings.training.optimizer.arguments["lr"]
            rates.setdefault(job.cell.settings.arm, []).append(rate)
    first, second = rates.values()
    assert first == second
    assert len(set(first)) == 4


def test_a_failed_trial_is_replaced_until_too_many_failed(tmp_path: Path) -> None:
    study, home = read(tmp_path), Home(tmp_path / "home")
    agenda = Agenda(ledger_of(study, home), home)
    failed = 0
    while (job := agenda.take(SLOT)) is not None:
        arm = job.cell.settings.arm
        if job.search is not None and (arm.endswith("/relu") or failed < 1):
            job.trial = job.book.fail(job.trial, "boom")
            failed += not arm.endswith("/relu")
        else:
            pretend(job)
    counts = agenda.counts()
    assert counts.failed == 4 + 1  # all of relu's budget, and one of leaky_relu's
    assert counts.complete == 4 + 2  # leaky_relu's search, and its confirmation
    assert agenda.left() == counts.waiting == 0


def test_as_many_failed_trials_are_tried_again_as_the_budget_lacks(tmp_path: Path) -> None:
    study, home = read(tmp_path, "matrix.activation=leaky_relu"), Home(tmp_path / "home")
    ledger = ledger_of(study, home)
    agenda = Agenda(ledger, home)
    for number in range(5):  # one ends well, and four fail: as many as were wanted
        job = agenda.take(SLOT)
        assert job is not None
        if number == 2:
            pretend(job)
        else:
            job.trial = job.book.fail(job.trial, "boom")
    assert agenda.has_failed()
    agenda.retry_failed()

    again = Agenda(ledger, home)
    assert (again.counts().waiting, again.counts().failed) == (3 + 2, 1)
    done = work_off(again)
    assert [job.trial.number for job in done if job.search] == [0, 1, 3]  # and none is new
    assert not again.has_failed()
    rates = {job.key: job.cell.settings.training.optimizer.arguments["lr"] for job in again.jobs()}
    (book,) = ledger.searches()
    best = ArmSearch(study, book).best(book.trials())
    assert best is not None
    confirmed = [job.key for job in done if job.search is None]
    assert [rates[key] for key in confirmed] == [rates[f"0/{best.number}"]] * 2


def test_seeds_of_the_search_take_turns(tmp_path: Path) -> None:
    study, home = read(tmp_path, "matrix.seeds=[5,6]"), Home(tmp_path / "home")
    jobs = work_off(Agenda(ledger_of(study, home), home))
    for arm in study.arms():
        mine = [job for job in jobs if job.search and job.cell.settings.arm == arm.label]
        assert [job.cell.settings.seed for job in mine] == [5, 6, 5, 6]


# Whole searches


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "home")
    yield command
    command.close()


def trials_in_optuna(command: Command) -> dict[str, list[optuna.trial.FrozenTrial]]:
    storage = f"sqlite:///{command.home}/optuna.db"
    return {
        summary.study_name: optuna.load_study(study_name=summary.study_name, storage=storage).trials
        for summary in optuna.get_all_study_summaries(storage)
    }


def numbers(command: Command) -> dict[str, Any]:
    """What a study found, without times and hosts."""
    return {
        name: [
            (t.number, t.state, t.params, t.intermediate_values, t.user_attrs["result"])
            for t in trials
        ]
        for name, trials in trials_in_optuna(command).items()
    }


def histories(home: Path) -> dict[str, History]:
    folders = (home / "trials" / "tuned").rglob("checkpoint.safetensors")
    return {str(path.parent.relative_to(home)): History.read(path.parent) for path in folders}


@pytest.mark.long
def test_a_search_end_to_end_and_interrupted(tmp_path: Path, search_file: Path) -> None:
    pruner = '{name="median",n_startup_trials=1,n_warmup_steps=0}'
    options = ("--set", f"search.pruner={pruner}", "--set", "training.epochs=3", "--workers", "1")
    options += ("--set", "training.probes=false")
    undisturbed, disturbed = Command(tmp_path / "undisturbed"), Command(tmp_path / "disturbed")
    try:
        undisturbed.succeed("launch", search_file, *options)
        process = disturbed.start("launch", search_file, *options)
        wait_for_epochs(disturbed, lambda epochs: epochs >= 4)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        state = disturbed.json("status", "tuned", "--json")
        assert state["state"] == "interrupted"
        assert state["trials"]["total"] == 12
        process = disturbed.start("resume", "tuned")
        wait_for_epochs(disturbed, lambda epochs: epochs >= 14)
        process.kill()
        process.communicate(timeout=60)
        disturbed.succeed("resume", "tuned")
        assert numbers(disturbed) == numbers(undisturbed)
        assert_a_whole_search(disturbed)
        assert disturbed.json("status", "tuned", "--json")["state"] == "complete"
        again = disturbed.succeed("resume", "tuned")
        assert "tuned" in again
        assert numbers(disturbed) == numbers(undisturbed)
    finally:
        undisturbed.close()
        disturbed.close()


def wait_for_epochs(command: Command, enough: Callable[[int], bool]) -> None:
    wait_until(lambda: enough(sum(len(h.epochs) for h in histories(command.home).values())))


def assert_a_whole_search(command: Command) -> None:
    trials = trials_in_optuna(command)
    arms = [name for name in trials if "/" in name]
    assert len(arms) == 2
    for arm in arms:
        assert [t.number for t in trials[arm]] == [0, 1, 2, 3]
        assert {t.state for t in trials[arm]} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert sorted(t.user_attrs["seed"] for t in trials["tuned"]) == [1, 1, 2, 2]
    assert all(t.state is TrialState.COMPLETE for t in trials["tuned"])
    assert any(t.state is TrialState.PRUNED for arm in arms for t in trials[arm])
    for folder, history in histories(command.home).items():
        split, other = ("val", "test") if "search" in folder else ("test", "val")
        for record in history.epochs:
            assert f"{split}/accuracy" in record.metrics
            assert not any(key.startswith(other) for key in record.metrics)


@pytest.mark.long
def test_a_parallel_search_keeps_its_budget(command: Command, search_file: Path) -> None:
    quick = ("--set", "training.probes=false", "--set", "training.epochs=1")
    command.succeed("launch", search_file, "--workers", "3", "--set", "search.trials=3", *quick)
    trials = trials_in_optuna(command)
    assert [len(trials[name]) for name in sorted(trials)] == [4, 3, 3]
    report = command.json("report", "tuned", "--format", "json", "--no-figures")
    assert [arm["n"] for arm in report["arms"]] == [2, 2]


def test_validate_shows_the_search(command: Command, search_file: Path) -> None:
    shown = command.succeed("validate", search_file)
    assert "4 trials" in shown
    assert "seeds 1, 2" in shown
    assert "activation.negative_slope" in shown
    assert not command.home.exists()


def test_a_search_without_a_validation_split_is_refused(
    command: Command, search_file: Path
) -> None:
    search_file.write_text(SEARCH.replace("validation_fraction = 0.25\n", ""))
    done = command.run("launch", search_file)
    assert done.returncode == 2
    assert "validation split" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not command.home.exists() or not list(command.home.glob("trials/*"))
