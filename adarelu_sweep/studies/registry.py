"""The samplers and pruners of a search by name, without importing Optuna.

Arguments and defaults are Optuna's own; ``supervising.search`` builds the objects.
"""

from typing import Annotated

from pydantic import Field

from adarelu_sweep.components import Argument, Entry, Registry

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Factor = Annotated[int, Field(ge=2)]

SAMPLERS = Registry(
    "sampler",
    [
        Entry(
            "tpe",
            "optuna.samplers:TPESampler",
            "tree-structured Parzen estimator; its first trials are random",
            {"n_startup_trials": Argument(Count, 10), "multivariate": Argument(bool, False)},
        ),
        Entry("random", "optuna.samplers:RandomSampler", "independent draws"),
        Entry("qmc", "optuna.samplers:QMCSampler", "a scrambled Sobol sequence"),
        Entry(
            "cmaes",
            "optuna.samplers:CmaEsSampler",
            "CMA-ES, for two numbers or more; what is not a number is drawn at random",
            {"n_startup_trials": Argument(Count, 1)},
        ),
        Entry(
            "gp",
            "optuna.samplers:GPSampler",
            "a Gaussian process; its first trials are random",
            {"n_startup_trials": Argument(Count, 10)},
        ),
    ],
)

PRUNERS = Registry(
    "pruner",
    [
        Entry("none", "optuna.pruners:NopPruner", "every trial is trained to its end"),
        Entry(
            "median",
            "optuna.pruners:MedianPruner",
            "ends a trial whose best value so far is below the median at that epoch",
            {
                "n_startup_trials": Argument(Count, 5),
                "n_warmup_steps": Argument(Count, 0),
                "interval_steps": Argument(Positive, 1),
            },
        ),
        Entry(
            "successive_halving",
            "optuna.pruners:SuccessiveHalvingPruner",
            "asynchronous successive halving: the best 1 / reduction_factor go on at every rung",
            {
                "min_resource": Argument(Positive, 1),
                "reduction_factor": Argument(Factor, 4),
                "min_early_stopping_rate": Argument(Count, 0),
            },
        ),
        Entry(
            "hyperband",
            "optuna.pruners:HyperbandPruner",
            "several brackets of successive halving",
            {"min_resource": Argument(Positive, 1), "reduction_factor": Argument(Factor, 3)},
        ),
    ],
)
