"""What there is to measure: the arms of a study, or what is built in."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from adarelu_sweep.activations.registry import ACTIVATIONS
from adarelu_sweep.benchmarking.messages import Group
from adarelu_sweep.components import Component
from adarelu_sweep.datasets.shape import Shape, shape_of
from adarelu_sweep.networks.registry import NETWORKS
from adarelu_sweep.studies.overrides import value_of
from adarelu_sweep.studies.reading import study_of
from adarelu_sweep.studies.schema import Study
from adarelu_sweep.training.settings import TrialSettings

REFERENCE = "relu"
"""The activation whose step the others' are compared with, that the plain loop trains, and that
stands for the others in packs."""


def study_of_built_in(
    networks: Sequence[str], activations: Sequence[str], precision: str, batch_size: int
) -> Study:
    """Return a study of these networks and activations on images like CIFAR-10's.

    Each is a name, or a table as ``--set`` takes it; all that are built in where none is given.
    Raises UserError for what is not known.
    """
    document: dict[str, Any] = {
        "name": "bench",
        "matrix": {
            "dataset": "cifar10",
            "network": [value_of(each) for each in networks] or NETWORKS.names(),
            "activation": [value_of(each) for each in activations] or ACTIVATIONS.names(),
            "seeds": 1,
        },
        "training": {
            "epochs": 1,
            "batch_size": batch_size,
            "optimizer": {"name": "sgd", "lr": 0.001, "momentum": 0.9},
            "precision": precision,
        },
    }
    return study_of(document, "bench")


def groups_of(studies: Iterable[Study], data_folder: Path) -> list[Group]:
    """Return the arms of studies as they take turns.

    The probes are off: the plain loop has none. Data sets of one shape are measured once.
    """
    groups = []
    for study in studies:
        shapes = {shape_of(dataset, data_folder): dataset for dataset in study.matrix.dataset}
        for shape, dataset in shapes.items():
            for network in study.matrix.network:
                arms = [
                    trial_of(study, dataset, network, activation)
                    for activation in study.matrix.activation
                ]
                groups.append(_group(shape, arms))
    return groups


def trial_of(
    study: Study, dataset: str, network: Component, activation: Component
) -> TrialSettings:
    """Return a trial of an arm as it is measured."""
    return TrialSettings(
        dataset=dataset,
        network=network,
        activation=activation,
        seed=0,
        data=study.data,
        training=study.training.model_copy(update={"probes": False}),
    )


def _group(shape: Shape, arms: list[TrialSettings]) -> Group:
    labels = [arm.activation.label for arm in arms]
    reference = labels.index(REFERENCE) if REFERENCE in labels else 0
    return Group(shape=shape, arms=arms, reference=reference)
