"""The optimizers, learning rate schedules and augmentations by name, without importing torch."""

from typing import Annotated

from pydantic import Field

from adarelu_sweep.components import Argument, Entry, Registry

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]

OPTIMIZERS = Registry(
    "optimizer",
    [
        Entry(
            "sgd",
            "torch.optim:SGD",
            "stochastic gradient descent with momentum",
            {
                "lr": Argument(Positive, 0.001),
                "momentum": Argument(NonNegative, 0.0),
                "weight_decay": Argument(NonNegative, 0.0),
                "nesterov": Argument(bool, False),
            },
        ),
        Entry(
            "adam",
            "torch.optim:Adam",
            "Adam (Kingma and Ba, 2015)",
            {
                "lr": Argument(Positive, 0.001),
                "beta1": Argument(BelowOne, 0.9),
                "beta2": Argument(BelowOne, 0.999),
                "eps": Argument(Positive, 1e-8),
                "weight_decay": Argument(NonNegative, 0.0),
            },
        ),
        Entry(
            "adamw",
            "torch.optim:AdamW",
            "Adam with decoupled weight decay (Loshchilov and Hutter, 2019)",
            {
                "lr": Argument(Positive, 0.001),
                "beta1": Argument(BelowOne, 0.9),
                "beta2": Argument(BelowOne, 0.999),
                "eps": Argument(Positive, 1e-8),
                "weight_decay": Argument(NonNegative, 0.01),
            },
        ),
    ],
)

AUGMENTATIONS = Registry(
    "augmentation",
    [
        Entry("none", "adarelu_sweep.training.augmentation:none", "images as they are"),
        Entry(
            "crop_flip",
            "adarelu_sweep.training.augmentation:CropFlip",
            "shifted by up to padding pixels, zeros beyond the border; mirrored half of the time",
            {
                "padding": Argument(Annotated[int, Field(ge=0, le=16)], 4),
                "flip": Argument(bool, True),
            },
        ),
    ],
)

SCHEDULES = Registry(
    "schedule",
    [
        Entry("constant", "adarelu_sweep.training.schedule:constant", "the same in every epoch"),
        Entry(
            "step",
            "adarelu_sweep.training.schedule:step",
            "times gamma after every step_size epochs",
            {
                "step_size": Argument(Annotated[int, Field(ge=1)], 20),
                "gamma": Argument(Positive, 0.9),
            },
        ),
        Entry(
            "cosine",
            "adarelu_sweep.training.schedule:cosine",
            "half a cosine from the base learning rate down to 0 over the epochs of the trial",
        ),
    ],
)
