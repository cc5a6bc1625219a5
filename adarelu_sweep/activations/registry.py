"""The activations by name, without importing torch.

A package offers its own in the entry point group that the registry names.
"""

from typing import Annotated, Literal

from pydantic import Field

from adarelu_sweep.components import Argument, Entry, Registry

Finite = Annotated[float, Field(allow_inf_nan=False)]

ACTIVATIONS = Registry(
    "activation",
    [
        Entry("relu", "torch.nn:ReLU", "max(x, 0)"),
        Entry(
            "leaky_relu",
            "torch.nn:LeakyReLU",
            "x where x > 0, negative_slope * x elsewhere",
            {"negative_slope": Argument(Finite, 0.01)},
        ),
        Entry(
            "prelu",
            "torch.nn:PReLU",
            "Leaky ReLU whose slope is learnt, one per layer, from init",
            {"init": Argument(Finite, 0.25)},
        ),
        Entry("gelu", "torch.nn:GELU", "x times the Gaussian distribution function at x"),
        Entry("sigmoid", "torch.nn:Sigmoid", "1 / (1 + exp(-x))"),
        Entry("tanh", "torch.nn:Tanh", "the hyperbolic tangent"),
        Entry(
            "elu",
            "torch.nn:ELU",
            "x where x > 0, alpha * (exp(x) - 1) elsewhere",
            {"alpha": Argument(Annotated[float, Field(gt=0)], 1.0)},
        ),
        Entry("silu", "torch.nn:SiLU", "x * sigmoid(x)"),
        Entry(
            "adarelu",
            "adarelu_sweep.activations.adarelu:AdaReLU",
            "keeps whichever sign is rarer in the layer's mini-batch",
            {"eval_mode": Argument(Literal["batch", "running"], "batch")},
        ),
        Entry(
            "convrelu",
            "adarelu_sweep.activations.convrelu:ConvReLU",
            "max(x, theta), as the AdaReLU paper describes it",
            {"theta": Argument(Finite, 0.0)},
        ),
    ],
    group="adarelu_sweep.activations",
)
