"""What a device's matrix units do at best: the product of two large square matrices, in TFLOP/s."""

import argparse
import time
from collections.abc import Iterator
from datetime import date

import torch

from benchmarks.machine import machine

_KINDS = {  # what a training in this precision may use: torch's default is TF32 in convolutions
    "bf16": (torch.bfloat16, False),
    "fp32 as TF32": (torch.float32, True),
    "fp32": (torch.float32, False),
}
_WARM_UP, _ROUNDS = 3, 10


def main() -> None:
    """Print a Markdown table."""
    options = parsed()
    device = torch.device(options.device)
    print(f"{date.today()}; {machine(device)}\n")
    print(f"| product of {options.size} x {options.size} matrices | TFLOP/s |\n| --- | --- |")
    for kind, rate in rates(device, options.size):
        print(f"| {kind} | {rate:.3g} |", flush=True)


def rates(device: torch.device, size: int) -> Iterator[tuple[str, float]]:
    """Yield the kinds of numbers, and the TFLOP/s of products of them."""
    for kind, (dtype, tf32) in _KINDS.items():
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        for _ in range(_WARM_UP):
            a @ b
        _wait(device)
        began = time.perf_counter()
        for _ in range(_ROUNDS):
            a @ b
        _wait(device)
        yield kind, 2 * size**3 * _ROUNDS / (time.perf_counter() - began) / 1e12


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    return parser.parse_args()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what says what is multiplied, and where."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--size", type=int, default=8192, help="of the matrices")


if __name__ == "__main__":
    main()
