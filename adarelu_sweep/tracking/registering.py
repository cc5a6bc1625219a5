"""The process that logs a trial's model to its run and registers it: an order on standard input.

What goes wrong is said in the last line of standard output.
"""

import sys
from typing import TYPE_CHECKING

from pydantic import BaseModel

from adarelu_sweep.processes import search_current_folder_last
from adarelu_sweep.storing.places import place_at
from adarelu_sweep.tracking.client import prepare_client

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ALIAS = "best"
_MODEL = "classifier"


class Order(BaseModel):
    """Which model is to be registered, and as what."""

    run_id: str
    name: str
    results: str
    """Where its model and history are: ``storing.places``."""
    description: str


def main() -> int:
    """Carry out the order; return the exit code."""
    search_current_folder_last()
    prepare_client()
    order = Order.model_validate_json(sys.stdin.read())
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    try:
        version = _find_version(client, order) or _register(client, order)
        client.update_registered_model(order.name, order.description)
        client.update_model_version(order.name, version, order.description)
        client.set_registered_model_alias(order.name, ALIAS, version)
    except Exception as error:
        said = str(error).splitlines()
        print(f"{type(error).__name__}: {said[0]}" if said else type(error).__name__)
        return 1
    return 0


def _find_version(client: "MlflowClient", order: Order) -> str | None:
    """Return the version that an earlier attempt made of the run's model, if one did."""
    found = client.search_model_versions(f"name = '{order.name}' AND run_id = '{order.run_id}'")
    return str(found[0].version) if found else None


def _register(client: "MlflowClient", order: Order) -> str:
    """Log the model to its run and return its version in the registry."""
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    from adarelu_sweep.training.description import Description
    from adarelu_sweep.training.history import History
    from adarelu_sweep.training.inference import load_classifier

    run = client.get_run(order.run_id)
    for left in run.outputs.model_outputs if run.outputs else []:  # by an attempt cut short
        client.delete_logged_model(left.model_id)
    mlflow.set_experiment(experiment_id=run.info.experiment_id)  # else it goes into the default one
    results = place_at(order.results)
    model = load_classifier(results)
    pixels = model.pixels
    shape = (-1, pixels.channels, pixels.height, pixels.width)
    inputs = Schema([TensorSpec(np.dtype(np.float32), shape, "images")])
    outputs = Schema([TensorSpec(np.dtype(np.float32), (-1, pixels.classes), "logits")])
    # mlflow.pytorch.log_model does this too, but only for an active run, whose status it changes.
    info = Model.log(
        artifact_path=None,
        flavor=mlflow.pytorch,
        name=_MODEL,
        run_id=order.run_id,
        step=Description.read(results).epoch or len(History.read(results).epochs),
        registered_model_name=order.name,
        pytorch_model=model,
        signature=ModelSignature(inputs, outputs),
        # Two images: a batch of one would be exported as a model for one.
        input_example=np.zeros((2, *shape[1:]), dtype=np.float32),
        # A graph with its weights: it is loaded without this package, and nothing is unpickled.
        serialization_format="pt2",
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", "numpy"],
    )
    return str(info.registered_model_version)


if __name__ == "__main__":
    sys.exit(main())
