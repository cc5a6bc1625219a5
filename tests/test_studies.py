"""Study files: what they may say, what is refused and how, and the trials that follow."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.components import Component, Registry, shorten, unknown
from adarelu_sweep.errors import UserError
from adarelu_sweep.networks.registry import NETWORKS
from adarelu_sweep.studies.overrides import apply_overrides
from adarelu_sweep.studies.plan import cells
from adarelu_sweep.studies.reading import read_study
from adarelu_sweep.studies.schema import Matrix, Study
from adarelu_sweep.training.registry import OPTIMIZERS, SCHEDULES
from adarelu_sweep.training.schedule import learning_rate
from adarelu_sweep.training.settings import TrainingSettings, TrialSettings

VALID = """\
name = "first"

[matrix]
dataset = "mnist"
network = ["resnet18", { name = "vgg16_bn", width = 0.5 }]
activation = ["relu", "adarelu"]
seeds = [3, 1]

[training]
epochs = 5
optimizer = { name = "sgd", lr = 0.02, momentum = 0.9 }
schedule = "cosine"
"""
MINIMAL = """\
name = "least"
matrix = { dataset = "digits", network = "vgg16", activation = "relu", seeds = 1 }
training = { epochs = 1 }
"""

Reader = Callable[..., Study]


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    """Write a study file and read it, with overrides."""

    def reader(text: str | bytes, *overrides: str, name: str | None = None) -> Study:
        path = tmp_path / "study.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_study(path, overrides, name)

    return reader


def refusal(read: Reader, text: str | bytes, *overrides: str, name: str | None = None) -> str:
    """The one line with which a study file is refused."""
    with pytest.raises(UserError) as raised:
        read(text, *overrides, name=name)
    message = str(raised.value)
    assert len(message.splitlines()) == 1, message
    return message


def labels(components: list[Component]) -> list[str]:
    return [component.label for component in components]


# What a study file says


def test_defaults_are_filled_in(read: Reader) -> None:
    study = read(MINIMAL)
    assert study.name == "least"
    assert study.data.train_limit is None
    assert study.data.subset_note() is None
    training = study.training
    assert (training.epochs, training.batch_size, training.evaluation_batch_size) == (1, 32, 32)
    assert training.optimizer.flattened() == {
        "name": "sgd",
        "lr": 0.001,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
    }
    assert training.schedule.flattened() == {"name": "constant"}
    assert (training.precision, training.channels_last, training.deterministic) == (
        "fp32",
        True,
        False,
    )


def test_a_single_value_is_a_list_of_one(read: Reader) -> None:
    study = read(MINIMAL, "matrix.network={name='resnet18', width=2}", "matrix.dataset=mnist")
    assert study.matrix.dataset == ["mnist"]
    assert labels(study.matrix.network) == ["resnet18(width=2.0)"]
    assert labels(study.matrix.activation) == ["relu"]
    listed = read(
        MINIMAL, "matrix.network=[{name='resnet18', width=2}]", "matrix.dataset=['mnist']"
    )
    assert listed == study


def test_a_number_of_seeds_counts_from_0(read: Reader) -> None:
    assert read(MINIMAL, "matrix.seeds=4").matrix.seeds == [0, 1, 2, 3]
    assert read(MINIMAL, "matrix.seeds=[4]").matrix.seeds == [4]
    assert read(MINIMAL, f"matrix.seeds=[{2**63 - 1}, 0]").matrix.seeds == [2**63 - 1, 0]
    assert len(read(MINIMAL, "matrix.seeds=1_000_000").matrix.seeds) == 1_000_000


def test_a_label_shows_what_is_not_the_default() -> None:
    assert OPTIMIZERS.resolve("adam").label == "adam"
    given_ = {"name": "sgd", "nesterov": True, "lr": 0.001, "momentum": 0.9}
    assert OPTIMIZERS.resolve(given_).label == "sgd(momentum=0.9,nesterov=true)"
    assert NETWORKS.resolve({"name": "vgg16", "width": 1}).label == "vgg16"
    width = NETWORKS.resolve({"name": "vgg16", "width": 2}).arguments["width"]
    assert isinstance(width, float)


def test_a_subset_says_so(read: Reader) -> None:
    note = read(MINIMAL, "data.train_limit=100").data.subset_note()
    assert note == "On a fixed subset of the data: at most 100 training images, all test images."


def test_the_longest_and_oddest_names(read: Reader) -> None:
    for name in ("a" * 100, "0", "A.b_c-d", "9..", "true"):
        assert read(MINIMAL, name=name).name == name


def test_every_shipped_study_is_valid() -> None:
    files = sorted((Path(__file__).parent.parent / "studies").glob("*.toml"))
    assert files
    for file in files:
        assert read_study(file).name == file.stem


@pytest.mark.parametrize("registry", [ACTIVATIONS, NETWORKS, OPTIMIZERS, SCHEDULES])
def test_every_entry_can_be_imported(registry: Registry) -> None:
    for entry in registry:
        component = registry.resolve(entry.name)
        assert component.label == entry.name
        assert callable(registry.load(component))
        assert registry.resolve(component.flattened()) == component


# What is refused

REFUSED = [
    # not TOML
    ("name = ", [], ["not valid TOML", "at end of document"]),
    (VALID.replace("epochs = 5", "epochs = 5 5"), [], ["not valid TOML", "line 10"]),
    (VALID + "epochs = 5\n", [], ["not valid TOML", "line 13"]),
    (VALID + "when = 2020-99-99\n", [], ["not valid TOML"]),
    ("a = " + "[" * 100_000, [], ["not valid TOML", "nested too deeply"]),
    ("a = " + "9" * 10_000, [], ["not valid TOML"]),
    ("\x00", [], ["not valid TOML"]),
    (b"name = '\xff'", [], ["UTF-8"]),
    (VALID.encode("utf-16"), [], ["UTF-8"]),
    # missing
    ("", [], ["name: is missing", "2 more"]),
    (VALID.replace("epochs = 5\n", ""), [], ["training.epochs: is missing"]),
    (VALID.replace("seeds = [3, 1]\n", ""), [], ["matrix.seeds: is missing"]),
    # unknown keys
    (VALID.replace("epochs", "epoch"), [], ["training.epoch: unknown key", "'epochs'"]),
    (VALID.replace("[training]", "[trainin]"), [], ["trainin: unknown key", "'training'"]),
    (VALID + "batch-size = 3\n", [], ["training.batch-size: unknown key", "'batch_size'"]),
    ("my-key = 1\n" + VALID, [], ["my-key: unknown key", "name, matrix, data, training"]),
    ("'[x]' = 1\n" + VALID, [], ["[x]: unknown key"]),
    (VALID + "[data]\ntrain_limits = 3\n", [], ["data.train_limits: unknown", "'train_limit'"]),
    (VALID, ["matrix.seed=3"], ["matrix.seed: unknown key", "'seeds'"]),
    # unknown names and arguments
    (VALID, ["matrix.activation=adarlu"], ["matrix.activation.0: unknown", "'adarelu'"]),
    (VALID, ["matrix.network=['resnet18','resnet']"], ["matrix.network.1: unknown", "'resnet18'"]),
    (VALID, ["training.optimizer=adma"], ["training.optimizer: unknown optimizer", "'adam'"]),
    (VALID, ["training.schedule=x"], ["training.schedule: unknown", "constant, step, cosine"]),
    (VALID, ["training.optimizer.rl=1"], ["unknown argument of sgd 'rl'", "'lr'"]),
    (VALID, ["matrix.activation.0.x=1"], ["unknown argument of relu 'x'", "it takes none"]),
    (VALID, ["matrix.activation=" + "y" * 999], ["unknown activation 'yyy"]),
    # components of the wrong form
    (VALID, ["training.optimizer=3"], ["training.optimizer: 3 is not a name or a table"]),
    (VALID, ["matrix.activation={theta=1.0}"], ["matrix.activation.0", "give its name"]),
    (VALID, ["training.optimizer={nesterov=true}"], ["training.optimizer: nesterov", "momentum"]),
    (VALID, ["training.optimizer={name=3}"], ["training.optimizer", "is not a name or a table"]),
    (VALID, ["matrix.network=[[]]"], ["matrix.network.0: [] is not a name or a table"]),
    (
        VALID,
        ["matrix.activation={name='relu', arguments={}, label='x'}"],
        ["matrix.activation.0: unknown argument of relu 'arguments'"],
    ),
    # wrong values
    (VALID, ["training=3"], ["training: 3 is not a table"]),
    (VALID, ["data=[]"], ["data: [] is not a table"]),
    (VALID, ["training.epochs=0"], ["training.epochs: 0"]),
    (VALID, ["training.epochs=2.0"], ["training.epochs: 2.0"]),
    (VALID, ["training.epochs=true"], ["training.epochs: True"]),
    (VALID, ["training.epochs='5'"], ["training.epochs: '5'"]),
    (VALID, ["training.epochs=9223372036854775808"], ["training.epochs", "64 bits"]),
    (VALID, ["training.epochs=0x" + "f" * 9999], ["training.epochs", "64 bits"]),
    (VALID, ["training.optimizer.lr=0x" + "f" * 9999], ["training.optimizer.lr", "64 bits"]),
    (VALID, ["training.epochs=" + "9" * 9999], ["training.epochs", "valid integer"]),
    (VALID, ["training.batch_size=-1"], ["training.batch_size: -1"]),
    (VALID, ["training.precision=fp16"], ["training.precision: 'fp16'", "'fp32' or 'bf16'"]),
    (VALID, ["training.channels_last=1"], ["training.channels_last: 1"]),
    (VALID, ["training.optimizer.lr=0"], ["training.optimizer: sgd.lr = 0", "greater than 0"]),
    (VALID, ["training.optimizer.lr=nan"], ["training.optimizer: sgd.lr = nan"]),
    (VALID, ["training.optimizer.lr=inf"], ["training.optimizer: sgd.lr = inf"]),
    (VALID, ["training.optimizer.lr=true"], ["training.optimizer: sgd.lr = True"]),
    (VALID, ["training.optimizer.nesterov=1"], ["training.optimizer: sgd.nesterov = 1"]),
    (VALID, ["training.schedule={name='step',step_size=1.5}"], ["step.step_size = 1.5"]),
    (VALID, ["matrix.network={name='vgg16',width=0}"], ["matrix.network.0: vgg16.width = 0"]),
    (VALID, ["matrix.network={name='vgg16',width=17}"], ["matrix.network.0: vgg16.width = 17"]),
    (VALID, ["data.train_limit=0"], ["data.train_limit: 0"]),
    (VALID, ["matrix.dataset=3"], ["matrix.dataset.0: 3"]),
    (VALID, ["matrix.dataset=../mnist"], ["matrix.dataset.0: '../mnist' is not a usable name"]),
    (VALID, ["matrix.seeds=0"], ["matrix.seeds: 0 is no number of seeds"]),
    (VALID, ["matrix.seeds=-1"], ["matrix.seeds: -1 is no number of seeds"]),
    (VALID, ["matrix.seeds=1000001"], ["matrix.seeds: 1000001 is no number of seeds"]),
    (VALID, ["matrix.seeds=true"], ["matrix.seeds: True"]),
    (VALID, ["matrix.seeds=[-1]"], ["matrix.seeds.0: -1"]),
    (VALID, ["matrix.seeds=[0, 0.5]"], ["matrix.seeds.1: 0.5"]),
    (VALID, ["matrix.seeds=[9223372036854775808]"], ["matrix.seeds.0"]),
    # empty lists and duplicates
    (VALID, ["matrix.dataset=[]"], ["matrix.dataset: []"]),
    (VALID, ["matrix.network=[]"], ["matrix.network: []"]),
    (VALID, ["matrix.activation=[]"], ["matrix.activation: []"]),
    (VALID, ["matrix.seeds=[]"], ["matrix.seeds: []"]),
    (VALID, ["matrix.seeds=[1, 2, 1]"], ["matrix.seeds: 1 is listed 2 times"]),
    (VALID, ["matrix.dataset=['a', 'a', 'a']"], ["matrix.dataset: a is listed 3 times"]),
    (
        VALID,
        ["matrix.network=['vgg16', {name='vgg16', width=1}]"],
        ["matrix.network: vgg16 is listed 2 times"],
    ),
    (
        VALID,
        ["matrix.activation=[{name='elu', alpha=2}, {name='elu', alpha=2.0}]"],
        ["matrix.activation: elu(alpha=2.0) is listed 2 times"],
    ),
    # names that cannot be folders
    *(
        (VALID, [f"name='''{name}'''"], ["name: ", "is not a usable name"])
        for name in ("", ".", "..", "-a", "a/b", "a b", "é", "a" * 101, "a\\n", "a" * 9999)
    ),
    (VALID, ["name=3"], ["name: 3"]),
]


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    REFUSED,
    ids=[f"{number}-{expected[0][:30]}" for number, (_, _, expected) in enumerate(REFUSED)],
)
def test_a_malformed_study_is_refused_in_one_line(
    read: Reader, text: str | bytes, overrides: list[str], expected: list[str]
) -> None:
    message = refusal(read, text, *overrides)
    assert "study.toml: " in message
    assert len(message) < 1000
    for part in expected:
        assert part in message


def test_a_study_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml: there is no such study file"):
        read_study(tmp_path / "none.toml")
    with pytest.raises(UserError, match="cannot be read"):
        read_study(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be read"):
        read_study(tmp_path / "file" / "below.toml")


def test_a_usable_name_is_wanted_from_the_option_too(read: Reader) -> None:
    assert "is not a usable name" in refusal(read, VALID, name="a/b")
    assert "is not a usable name" in refusal(read, VALID, name="")
    assert "name: " in refusal(read, VALID, name="\udcff")


def test_the_nearest_name_or_all_names() -> None:
    assert (
        unknown("thing", "aple", ["pear", "apple"])
        == "unknown thing 'aple' (did you mean 'apple'?)"
    )
    assert unknown("thing", "x", ["pear", "apple"]) == "unknown thing 'x' (known: pear, apple)"
    assert unknown("thing", "x", []) == "unknown thing 'x' (it takes none)"
    assert len(shorten("x" * 999)) == 60


# Overrides


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("k=1", 1),
        ("k=1e-3", 0.001),
        ("k = true ", True),
        ("k='1'", "1"),
        ('k="a\\nb"', "a\nb"),
        ("k=bare", "bare"),
        ("k=two words", "two words"),
        ("k=", ""),
        ("k=a=b", "a=b"),
        ("k=[1, 'x']", [1, "x"]),
        ("k={ a = 1, b = {} }", {"a": 1, "b": {}}),
        ("k=[unclosed", "[unclosed"),
        ("k=1 # no seeds", 1),
        ("k=2020-99-99", "2020-99-99"),
        ("k=1\nname = 'smuggled'", "1\nname = 'smuggled'"),
        ("k=1\n[training]\nepochs = 9", "1\n[training]\nepochs = 9"),
        ("k=1\r\nname = 2", "1\r\nname = 2"),
        ("k='''1\n2'''", "1\n2"),
    ],
)
def test_a_value_is_toml_or_a_bare_string(assignment: str, value: Any) -> None:
    document: dict[str, Any] = {"name": "kept"}
    apply_overrides(document, [assignment])
    assert document == {"name": "kept", "k": value}


def test_overrides_reach_every_depth() -> None:
    document = tomllib.loads(VALID)
    apply_overrides(
        document,
        [
            "matrix.network.1.width=0.25",  # an index into a list of tables
            "matrix.network.0.width=2",  # of a component given by its name
            "matrix.seeds.1=7",
            "training.optimizer.lr=0.1",
            "training.schedule.step_size=3",
            "training.schedule.name=step",
            "data.train_limit=10",  # a table that is not in the file
            "training.epochs=6",
            "training.epochs=7",  # the last one counts
        ],
    )
    assert document["matrix"]["network"] == [
        {"name": "resnet18", "width": 2},
        {"name": "vgg16_bn", "width": 0.25},
    ]
    assert document["matrix"]["seeds"] == [3, 7]
    assert document["training"] == {
        "epochs": 7,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
        "schedule": {"name": "step", "step_size": 3},
    }
    assert document["data"] == {"train_limit": 10}


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("", "KEY=VALUE"),
        ("training.epochs", "KEY=VALUE"),
        ("=3", "KEY=VALUE"),
        (" =3", "KEY=VALUE"),
        ("training..epochs=3", "KEY=VALUE"),
        (".name=3", "KEY=VALUE"),
        ("name.=3", "KEY=VALUE"),
        ("two\nlines", "KEY=VALUE"),
        ("training.epochs.x=1", "training.epochs is 5, which has no fields"),
        ("matrix.seeds.0.x=1", "matrix.seeds.0 is 3, which has no fields"),
        ("matrix.seeds.2=1", "'2' does not count into a list of 2"),
        ("matrix.seeds.-1=1", "'-1' does not count into a list of 2"),
        ("matrix.seeds.x=1", "'x' does not count into a list of 2"),
        ("matrix.network.x.width=1", "'x' does not count into a list of 2"),
        ("matrix.network.²=1", "'²' does not count into a list of 2"),
        ("matrix.seeds." + "9" * 9999 + "=1", "does not count into a list of 2"),
        ("name=\udcff", "UTF-8"),
        ("\udcff=1", "UTF-8"),
    ],
)
def test_a_malformed_override_is_refused(read: Reader, assignment: str, expected: str) -> None:
    message = refusal(read, VALID, assignment)
    assert message.startswith("--set ")
    assert expected in message
    message.encode()


def test_an_override_cannot_smuggle_in_keys(read: Reader) -> None:
    study = read(VALID, "training.precision='bf16'")
    assert study.training.precision == "bf16"
    message = refusal(read, VALID, "training.precision='bf16'\nepochs = 1")
    assert "training.precision" in message


# Damaged files and arbitrary overrides: refused in one line, or valid; nothing else ever happens.


def assert_refused_or_valid(path: Path, overrides: list[str]) -> None:
    message = ""
    try:
        study = read_study(path, overrides)
    except UserError as error:
        message = str(error)
    if message:
        assert len(message.splitlines()) == 1
        message.encode()
    else:
        assert Study.model_validate_json(study.model_dump_json()) == study
        for component in [
            *study.matrix.network,
            *study.matrix.activation,
            study.training.optimizer,
            study.training.schedule,
        ]:
            registries = (NETWORKS, ACTIVATIONS, OPTIMIZERS, SCHEDULES)
            (registry,) = (known for known in registries if component.name in known)
            assert registry.resolve(component.flattened()) == component


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "study.toml"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_valid(scratch: Path, data: st.DataObject) -> None:
    content = bytearray(VALID.encode())
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 30)))
        piece = data.draw(
            st.one_of(
                st.binary(max_size=4),
                st.sampled_from(VALID.split()).map(str.encode),
                st.sampled_from(
                    [b"-1", b"0", b"1e999", b"nan", b"true", b"[]", b"{}", b"''", b"."]
                ),
            )
        )
        content[start:end] = piece
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    scratch.write_bytes(content)
    assert_refused_or_valid(scratch, [])


KEYS = [
    "name",
    *(f"matrix.{name}" for name in Matrix.model_fields),
    *(f"training.{name}" for name in TrainingSettings.model_fields),
    "matrix.network.0.width",
    "matrix.activation.1.name",
    "training.optimizer.lr",
    "training.schedule.gamma",
    "data.test_limit",
    "data",
]
VALUES = st.recursive(
    st.none().map(lambda _: "bare")
    | st.integers(-(10**20), 10**20).map(str)
    | st.floats().map(str)
    | st.text(max_size=8).map(json.dumps)
    | st.sampled_from(
        [
            "true",
            "relu",
            "'vgg16'",
            "{name='adam'}",
            "{name='step',gamma=2}",
            "1979-05-27",
            "07:32:00",
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda values: f"[{','.join(values)}]")
        | st.dictionaries(
            st.sampled_from(["name", "width", "lr", "label", "arguments"]), inner
        ).map(lambda table: "{" + ",".join(f"{k}={v}" for k, v in table.items()) + "}")
    ),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(
    overrides=st.lists(
        st.builds("{}={}".format, st.sampled_from(KEYS), VALUES)
        | st.builds("{}={}".format, st.text(max_size=12), VALUES)
        | st.text(st.characters(exclude_categories=()), max_size=20),
        min_size=1,
        max_size=3,
    )
)
def test_any_override_is_refused_or_valid(scratch: Path, overrides: list[str]) -> None:
    scratch.write_text(VALID)
    assert_refused_or_valid(scratch, overrides)


# The trials of a study


def test_seeds_vary_slowest(read: Reader) -> None:
    keys = [cell.key for cell in cells(read(VALID))]
    arms = [
        "mnist/resnet18/relu",
        "mnist/resnet18/adarelu",
        "mnist/vgg16_bn(width=0.5)/relu",
        "mnist/vgg16_bn(width=0.5)/adarelu",
    ]
    assert keys == [f"{arm}/{seed}" for seed in (3, 1) for arm in arms]


def test_a_cell_has_the_settings_of_its_study(read: Reader) -> None:
    study = read(VALID, "data.test_limit=9")
    first = next(cells(study)).settings
    assert (first.dataset, first.network.label, first.activation.label, first.seed) == (
        "mnist",
        "resnet18",
        "relu",
        3,
    )
    assert first.training == study.training
    assert first.data.test_limit == 9


names_ = st.lists(st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True), min_size=1, unique=True)
widths = st.floats(0, 16, exclude_min=True, allow_subnormal=False)
networks = st.lists(
    st.builds(
        lambda name, width: {"name": name, "width": width},
        st.sampled_from(NETWORKS.names()),
        widths,
    )
    | st.sampled_from(NETWORKS.names()),
    min_size=1,
    max_size=4,
    unique_by=lambda given_: NETWORKS.resolve(given_).label,
)
studies = st.builds(
    lambda dataset, network, activation, seeds: Study.model_validate(
        {
            "name": "drawn",
            "matrix": {
                "dataset": dataset,
                "network": network,
                "activation": activation,
                "seeds": seeds,
            },
            "training": {"epochs": 1},
        }
    ),
    names_.map(lambda names: names[:3]),
    networks,
    st.lists(st.sampled_from(ACTIVATIONS.names()), min_size=1, max_size=4, unique=True),
    st.integers(1, 5) | st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5, unique=True),
)


@settings(max_examples=100, deadline=None)
@given(studies)
def test_the_cells_are_the_product_each_with_its_own_key(study: Study) -> None:
    matrix = study.matrix
    planned = list(cells(study))
    sizes = [len(matrix.dataset), len(matrix.network), len(matrix.activation), len(matrix.seeds)]
    assert len(planned) == sizes[0] * sizes[1] * sizes[2] * sizes[3]
    assert len({cell.key for cell in planned}) == len(planned)
    per_seed = len(planned) // sizes[3]
    assert [cell.settings.seed for cell in planned] == [
        seed for seed in matrix.seeds for _ in range(per_seed)
    ]
    arms = [cell.settings.arm for cell in planned]
    assert arms == arms[:per_seed] * sizes[3]
    assert list(cells(study)) == planned


@settings(max_examples=100, deadline=None)
@given(studies)
def test_what_is_stored_comes_back_the_same(study: Study) -> None:
    back = Study.model_validate_json(study.model_dump_json())
    assert back == study
    assert back.model_dump_json() == study.model_dump_json()
    for cell in list(cells(study))[:3]:
        settings_ = TrialSettings.model_validate_json(cell.settings.model_dump_json())
        assert settings_ == cell.settings
        flat, flat_back = cell.settings.flattened(), settings_.flattened()
        assert flat == flat_back
        assert [type(value) for value in flat.values()] == [
            type(value) for value in flat_back.values()
        ]


def test_types_survive_the_storage(read: Reader) -> None:
    study = read(VALID, "training.optimizer={name='sgd', lr=1, nesterov=true, momentum=0.5}")
    arguments = Study.model_validate_json(study.model_dump_json()).training.optimizer.arguments
    assert arguments == {"lr": 1.0, "momentum": 0.5, "weight_decay": 0.0, "nesterov": True}
    assert [type(value) for value in arguments.values()] == [float, float, float, bool]


def test_a_study_cannot_be_changed(read: Reader) -> None:
    study = read(VALID)
    with pytest.raises(ValueError, match="frozen"):
        study.name = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        study.training.optimizer.label = "other"  # type: ignore[misc]


def test_the_parameters_of_a_trial(read: Reader) -> None:
    study = read(
        MINIMAL,
        "matrix.network={name='vgg16', width=0.5}",
        "matrix.activation={name='elu', alpha=2}",
        "training.schedule=step",
        "training.batch_size=16",
        "data.train_limit=100",
    )
    (cell,) = cells(study)
    assert cell.settings.flattened() == {
        "dataset": "digits",
        "seed": 0,
        "network.name": "vgg16",
        "network.width": 0.5,
        "activation.name": "elu",
        "activation.alpha": 2.0,
        "training.epochs": 1,
        "training.batch_size": 16,
        "training.eval_batch_size": 16,
        "training.precision": "fp32",
        "training.channels_last": True,
        "training.deterministic": False,
        "training.optimizer.name": "sgd",
        "training.optimizer.lr": 0.001,
        "training.optimizer.momentum": 0.0,
        "training.optimizer.weight_decay": 0.0,
        "training.optimizer.nesterov": False,
        "training.schedule.name": "step",
        "training.schedule.step_size": 20,
        "training.schedule.gamma": 0.9,
        "training.augmentation.name": "none",
        "training.probes": True,
        "data.train_limit": 100,
        "data.test_limit": "all",
        "measured_on": "test",
    }


# Schedules


def rates_of_torch(base: float, epochs: int, make: Callable[[Any], LRScheduler]) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = make(optimizer)
    rates = []
    for _ in range(epochs):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def rates_here(schedule: Any, base: float, epochs: int) -> list[float]:
    component = SCHEDULES.resolve(schedule)
    return [learning_rate(component, base, epoch, epochs) for epoch in range(epochs)]


@settings(max_examples=30, deadline=None)
@given(
    base=st.floats(1e-6, 10),
    epochs=st.integers(1, 60),
    step_size=st.integers(1, 25),
    gamma=st.floats(0.1, 2),
)
def test_the_schedules_are_those_of_torch(
    base: float, epochs: int, step_size: int, gamma: float
) -> None:
    expected = rates_of_torch(base, epochs, lambda o: StepLR(o, step_size, gamma))
    given_ = {"name": "step", "step_size": step_size, "gamma": gamma}
    assert rates_here(given_, base, epochs) == pytest.approx(expected, rel=1e-12)
    expected = rates_of_torch(base, epochs, lambda o: CosineAnnealingLR(o, epochs))
    assert rates_here("cosine", base, epochs) == pytest.approx(expected, rel=1e-9)
    assert rates_here("constant", base, epochs) == [base] * epochs


def test_the_rates_of_the_paper() -> None:
    """0.001 times 0.9 after every 20 of 100 epochs; and torch's own to the last bit at first."""
    rates = rates_here({"name": "step"}, 0.001, 100)
    assert sorted(set(rates), reverse=True) == [0.001 * 0.9**n for n in range(5)]
    assert [rates.count(0.001 * 0.9**n) for n in range(5)] == [20] * 5
    assert rates[:40] == rates_of_torch(0.001, 40, lambda o: StepLR(o, 20, 0.9))
    assert learning_rate(SCHEDULES.resolve("cosine"), 0.1, 0, 7) == 0.1


def test_one_field_of_an_optimizer_that_the_file_leaves_out(read: Reader) -> None:
    study = read(MINIMAL, "training.optimizer.lr=0.25", "training.schedule.name=cosine")
    assert study.training.optimizer.label == "sgd(lr=0.25)"
    assert study.training.schedule.label == "cosine"
