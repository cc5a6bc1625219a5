"""The process that tries torch on the device that its environment gives it."""

import json

from adarelu_sweep.processes import die_with_parent


def main() -> None:
    """Compute something, and print as JSON torch's version, or what went wrong."""
    die_with_parent()
    try:
        print(json.dumps({"torch": _computed()}))
    except Exception as error:  # of a broken library anything may come
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))


def _computed() -> str:
    import torch

    from adarelu_sweep.training.device import training_device

    ones = torch.ones(64, 64, device=training_device())
    total = (ones @ ones).sum().item()
    if total != 64.0**3:
        raise RuntimeError(f"torch computes {total} where {64.0**3} is right")
    return str(torch.__version__)


if __name__ == "__main__":
    main()
