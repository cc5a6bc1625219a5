"""What others have published: the AdaReLU paper's figures and protocol, public figures for ReLU.

The paper is Do Trung Dung, "Adaptive Rectified Linear Unit for Deep Neural Network Architecture",
2026, doi 10.61591/jslhu.26.1075. It gives means of 20 models without a spread, interval or test.
"""

from dataclasses import dataclass

from adarelu_sweep.components import Component
from adarelu_sweep.training.settings import TrialSettings

PAPER = "Do Trung Dung, 2026, doi 10.61591/jslhu.26.1075"

# Tables 2, 3 and 4: mean test accuracy, percent, by data set, network, activation.
_TABLES = {
    "mnist": {
        "VGG-16": {"relu": 94.63, "leaky_relu": 94.71, "adarelu": 94.77},
        "ResNet-18": {"relu": 94.84, "leaky_relu": 94.88, "adarelu": 95.17},
    },
    "cifar10": {
        "VGG-16": {"relu": 92.63, "leaky_relu": 93.71, "adarelu": 93.91},
        "ResNet-18": {"relu": 94.75, "leaky_relu": 95.04, "adarelu": 95.57},
    },
    "cifar100": {
        "VGG-16": {"relu": 75.67, "leaky_relu": 76.54, "adarelu": 76.77},
        "ResNet-18": {"relu": 76.28, "leaky_relu": 76.94, "adarelu": 77.15},
    },
}
# The paper's network is "VGG-16-like"; it does not say whether with batch norm.
_NETWORKS = {"vgg16": "VGG-16", "vgg16_bn": "VGG-16", "resnet18": "ResNet-18"}

# Lowest and highest test accuracy, percent, of public repositories that train the same networks
# with ReLU by the standard recipe: crop and flip, weight decay 5e-4, learning rate 0.1.
_STANDARD = {
    ("cifar10", "vgg16_bn"): (92.6, 94.3),
    ("cifar10", "resnet18"): (93.0, 95.7),
    ("cifar100", "vgg16_bn"): (72.7, 72.9),
    ("cifar100", "resnet18"): (75.6, 76.8),
}

OPEN_QUESTIONS = (
    "The paper does not say: whether its VGG-16 has batch norm, how AdaReLU decides at inference, "
    "the weight decay, which epoch it reports, the slope of Leaky ReLU, how MNIST's images were "
    "brought to size, what its classifier head is."
)


@dataclass(frozen=True)
class Difference:
    """One point in which a trial does not follow the paper's protocol."""

    aspect: str
    paper: str
    here: str


def paper_accuracy(settings: TrialSettings) -> float | None:
    """Return the paper's mean test accuracy of an arm, percent; None if it gives none."""
    network = _NETWORKS.get(settings.network.name, "")
    return _TABLES.get(settings.dataset, {}).get(network, {}).get(settings.activation.name)


def standard_accuracy(settings: TrialSettings) -> tuple[float, float] | None:
    """Return the range of public test accuracies of an arm by the standard recipe, percent.

    None for what does not follow it: ReLU on the whole of the data, networks of the usual width,
    crop and flip, weight decay 5e-4, learning rate 0.1. Schedules and epochs differ among those
    who use it.
    """
    optimizer = settings.training.optimizer
    follows = (
        settings.activation.name == "relu"
        and settings.network.arguments.get("width", 1.0) == 1.0
        and settings.data.subset_note() is None
        and settings.training.augmentation.name == "crop_flip"
        and optimizer.name == "sgd"
        and optimizer.arguments["lr"] == 0.1
        and optimizer.arguments["weight_decay"] == 5e-4
    )
    return _STANDARD.get((settings.dataset, settings.network.name)) if follows else None


def protocol_differences(settings: TrialSettings, seeds: int) -> list[Difference]:
    """List where an arm of ``seeds`` trials departs from the paper's protocol, in plain words.

    The protocol: batch 32, momentum 0.9, 100 epochs, learning rate 0.001 times 0.9 after every 20
    epochs, 20 models per arm, no augmentation; ReLU, Leaky ReLU and AdaReLU in the tables.
    """
    training, optimizer = settings.training, settings.training.optimizer.arguments
    schedule, augmentation = training.schedule, training.augmentation
    evaluation = training.evaluation_batch_size
    paper_schedule = {"name": "step", "step_size": 20, "gamma": 0.9}
    points: list[tuple[bool, str, str, object]] = [
        (training.epochs != 100, "epochs", "100", training.epochs),
        (training.batch_size != 32, "batch size", "32", training.batch_size),
        (
            training.optimizer.name != "sgd",
            "optimizer",
            "stochastic gradient descent",
            training.optimizer.name,
        ),
        (optimizer["lr"] != 0.001, "learning rate", "0.001", optimizer["lr"]),
        (
            optimizer.get("momentum") != 0.9,
            "momentum",
            "0.9",
            optimizer.get("momentum", "the optimizer has none"),
        ),
        (
            bool(optimizer.get("weight_decay")),
            "weight decay",
            "none mentioned",
            optimizer.get("weight_decay"),
        ),
        (bool(optimizer.get("nesterov")), "Nesterov momentum", "not mentioned", "yes"),
        (
            schedule.flattened() != paper_schedule,
            "learning rate schedule",
            "times 0.9 after every 20 epochs",
            _described(schedule),
        ),
        (augmentation.name != "none", "augmentation", "none", _described(augmentation)),
        (seeds != 20, "models per arm", "20", seeds),
        (
            settings.dataset not in _TABLES,
            "data set",
            "MNIST, CIFAR-10, CIFAR-100",
            settings.dataset,
        ),
        (
            settings.data.subset_note() is not None,
            "images",
            "all",
            f"{_limit(settings.data.train_limit)} for training, "
            f"{_limit(settings.data.test_limit)} for testing",
        ),
        (
            settings.validation_fraction is not None,
            "held out for validation",
            "none mentioned",
            f"{settings.validation_fraction} of the training images",
        ),
        (
            settings.network.name not in _NETWORKS,
            "network",
            "VGG-16-like, ResNet-18-like",
            settings.network.label,
        ),
        (
            settings.network.arguments.get("width", 1.0) != 1.0,
            "width of the network",
            "relatively small, no figure given",
            f"{settings.network.arguments.get('width')} times the usual channels",
        ),
        (
            settings.activation.name not in _TABLES["mnist"]["VGG-16"],
            "activation",
            "ReLU, Leaky ReLU and AdaReLU in its tables (PReLU in its text only)",
            settings.activation.label,
        ),
        (training.precision != "fp32", "precision", "not mentioned", training.precision),
        (
            evaluation != training.batch_size,
            "batch size of evaluation",
            "not mentioned",
            f"{evaluation}, in training {training.batch_size}",
        ),
        (
            settings.activation.arguments.get("eval_mode", "batch") != "batch",
            "AdaReLU at inference",
            "not mentioned; its equation votes over the batch at hand",
            f"eval_mode {settings.activation.arguments.get('eval_mode')}",
        ),
    ]
    return [
        Difference(aspect, paper, str(here)) for differs, aspect, paper, here in points if differs
    ]


def _described(component: Component) -> str:
    """Return a component with all its arguments, defaults included."""
    arguments = ", ".join(f"{name} {value}" for name, value in component.arguments.items())
    return f"{component.name} ({arguments})" if arguments else component.name


def _limit(images: int | None) -> str:
    return f"at most {images}" if images else "all"
