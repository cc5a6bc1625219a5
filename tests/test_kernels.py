"""The Triton kernels: on a CUDA device, or on the CPU in Triton's interpreter."""

import math
import os
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}

INF, NAN = math.inf, math.nan
SPECIAL = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 2.0**-149, -(2.0**-149)]
ELEMENTS = st.sampled_from(SPECIAL) | st.floats(width=32)

on_a_device = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()),
    reason="needs a CUDA device, or TRITON_INTERPRET=1",
)


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    pytest.importorskip("triton")
    from adarelu_sweep.activations import kernels

    return kernels


def assert_right(kernels: ModuleType, x: Tensor) -> None:
    """Check count and output, bit by bit, for a tensor that is dense in any order."""
    x = x.to(DEVICE)
    parts = kernels.count(x)
    balance = int((x > 0).sum()) - int((x < 0).sum())
    assert parts.dtype == torch.int32
    assert int(parts.sum()) == balance
    output = kernels.rectify(x, parts)
    assert (output.dtype, output.shape, output.stride()) == (x.dtype, x.shape, x.stride())
    # What a GPU's min and max make of -0.0: the negative zero is the smaller one.
    expected = x.masked_fill(x > 0 if balance > 0 else x <= 0, 0.0)
    assert torch.equal(output.view(BITS[x.dtype]), expected.view(BITS[x.dtype]))


def noise(*shape: int, shift: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator) + shift).to(dtype)


@pytest.mark.gpu
@on_a_device
@settings(max_examples=100, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(list(BITS)))
def test_any_shape_and_value(kernels: ModuleType, data: st.DataObject, dtype: torch.dtype) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=6))
    array = data.draw(hnp.arrays(np.float32, shape, elements=ELEMENTS))
    assert_right(kernels, torch.from_numpy(np.asarray(array)).to(dtype))


@pytest.mark.gpu
@on_a_device
@pytest.mark.parametrize("dtype", list(BITS), ids=str)
@pytest.mark.parametrize("elements", [1, 4095, 4096, 4097, 3 * 4096 + 1])
@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_any_size(kernels: ModuleType, elements: int, shift: float, dtype: torch.dtype) -> None:
    assert_right(kernels, noise(elements, shift=shift, dtype=dtype))


@pytest.mark.gpu
@on_a_device
@pytest.mark.parametrize("elements", [63, 64, 65, 64 * 5, 64 * 5 + 1, 1000])
@pytest.mark.parametrize("majority", [1, 0, -1])
def test_programs_that_count_several_tiles(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, elements: int, majority: int
) -> None:
    monkeypatch.setattr(kernels, "_TILE", 16)
    monkeypatch.setattr(kernels, "_PARTS", 4)
    x = torch.ones(2 * elements + abs(majority))
    x[: elements + (majority < 0)].neg_()
    assert_right(kernels, x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))])


@pytest.mark.gpu
@on_a_device
@pytest.mark.parametrize("dtype", list(BITS), ids=str)
def test_any_order_and_alignment(kernels: ModuleType, dtype: torch.dtype) -> None:
    x = noise(3, 5, 4, 6, shift=0.2, dtype=dtype)
    assert_right(kernels, x.to(memory_format=torch.channels_last))
    assert_right(kernels, x.permute(2, 0, 3, 1))
    assert_right(kernels, x.flatten().to(DEVICE)[1:])


@pytest.mark.gpu
@on_a_device
def test_a_balance_in_64_bits_is_a_part_too(kernels: ModuleType) -> None:
    x = torch.tensor([1.0, -2.0]).to(DEVICE)
    for balance, expected in [(2**40, [0.0, -2.0]), (0, [1.0, 0.0]), (-(2**40), [1.0, 0.0])]:
        parts = torch.tensor(balance, device=DEVICE)
        assert kernels.rectify(x, parts).tolist() == expected


@pytest.mark.long
def test_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    # Triton takes the interpreter where it is imported, so that takes a process of its own.
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:xdist", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "passed" in result.stdout
    assert "skipped" not in result.stdout
