"""AdaReLU against eq. (3) written out in plain Python, and under everything torch does to it."""

import copy
import math
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from adarelu_sweep import AdaReLU, adarelu
from adarelu_sweep.activations import blocks

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INF, NAN = math.inf, math.nan

SPECIAL = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 2.0**-149, -(2.0**-149)]
ELEMENTS = st.sampled_from(SPECIAL) | st.floats(width=32)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)


def equation_3(values: list[float]) -> list[float]:
    positive = sum(value > 0 for value in values)
    negative = sum(value < 0 for value in values)
    branch = min if positive > negative else max
    return [value if math.isnan(value) else branch(value, 0.0) for value in values]


def assert_equation_3(x: Tensor, incoming: Tensor | None = None) -> None:
    """Check value and gradient for x, which may have any layout."""
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    output = adarelu(leaf)
    incoming = torch.ones_like(output) if incoming is None else incoming
    output.backward(incoming)

    expected = equation_3(x.flatten().tolist())
    gradient = [
        g if y != 0 else 0.0 for y, g in zip(expected, incoming.flatten().tolist(), strict=True)
    ]
    for got, wanted in [(output.detach(), expected), (leaf.grad, gradient)]:
        assert got is not None
        assert (got.dtype, got.shape, got.device) == (x.dtype, x.shape, x.device)
        wanted = torch.tensor(wanted, dtype=x.dtype).reshape(x.shape)
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


def noise(*shape: int, shift: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator) + shift).to(dtype)


# Equation (3)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_value_and_gradient_are_equation_3(data: st.DataObject, dtype: torch.dtype) -> None:
    shape = data.draw(SHAPES)
    arrays = hnp.arrays(np.float32, shape, elements=ELEMENTS)
    x, incoming = (torch.from_numpy(np.asarray(data.draw(arrays))).to(dtype) for _ in range(2))
    assert_equation_3(x, incoming)


@settings(max_examples=100, deadline=None)
@given(
    signs=st.lists(st.sampled_from([-1.0, 0.0, 1.0]), max_size=80),
    dtype=st.sampled_from(DTYPES),
)
def test_close_votes(signs: list[float], dtype: torch.dtype) -> None:
    x = torch.tensor(signs, dtype=dtype)
    assert_equation_3(x)
    assert_equation_3(torch.cat([x, -x]))  # a tie


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, 2.0, -1.0], [0.0, 0.0, -1.0]),
        ([-3.0, -2.0, 1.0], [0.0, 0.0, 1.0]),
        ([2.0, -1.0], [2.0, 0.0]),
        ([2.0, 0.0, 0.0, -0.0, -1.0, -1.0], [2.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        ([1.0, NAN, NAN, -1.0, -INF], [1.0, NAN, NAN, 0.0, 0.0]),
        ([INF, 1.0, -INF], [0.0, 0.0, -INF]),
        ([-INF, -1.0, INF], [0.0, 0.0, INF]),
        ([0.0, -0.0], [0.0, 0.0]),
        ([NAN], [NAN]),
    ],
)
def test_by_hand(values: list[float], expected: list[float], dtype: torch.dtype) -> None:
    x, wanted = torch.tensor(values, dtype=dtype), torch.tensor(expected, dtype=dtype)
    torch.testing.assert_close(adarelu(x), wanted, rtol=0, atol=0, equal_nan=True)
    assert_equation_3(x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_suppressed_values_are_positive_zeros(dtype: torch.dtype) -> None:
    x = torch.tensor([1.0] * 40 + [-1.0], dtype=dtype)
    for zeros in (adarelu(x)[:40], adarelu(-x)[:40]):
        assert not zeros.any()
        assert not zeros.signbit().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_infinite_and_nan_gradients_stop_at_zeros(dtype: torch.dtype, shift: float) -> None:
    x = noise(101, shift=shift, dtype=dtype)
    for bad in (INF, -INF, NAN):
        assert_equation_3(x, torch.full_like(x, bad))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("majority", [1, 0, -1])
def test_counts_beyond_2_to_the_24_are_exact(dtype: torch.dtype, majority: int) -> None:
    negative = 2**24 + 3
    x = torch.ones(2 * negative + majority, dtype=dtype)
    x[:negative].neg_()
    output = adarelu(x)
    kept, suppressed = output[:negative], output[negative:]
    if majority < 1:
        kept, suppressed = suppressed, kept
    assert kept.all()
    assert not suppressed.any()


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="floating-point"):
        adarelu(torch.ones(3, dtype=dtype))


# Layouts and sizes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,), (2, 3, 5, 7)])
def test_any_shape(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert_equation_3(noise(*shape, dtype=dtype))
    assert_equation_3(noise(*shape, shift=3, dtype=dtype))


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_channels_last_is_preserved(shift: float) -> None:
    x = noise(3, 5, 4, 6, shift=shift).to(memory_format=torch.channels_last).requires_grad_()
    output = adarelu(x)
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert_equation_3(x)
    output.square().sum().backward()
    assert x.grad is not None
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


def test_strided_and_expanded_inputs() -> None:
    x = noise(8, 9, 10, shift=0.2)
    for view in (x[::2, 1:, ::3], x.permute(2, 0, 1), x[:1].expand(4, 9, 10)):
        assert torch.equal(adarelu(view), adarelu(view.contiguous()))
        assert_equation_3(view)
        assert_equation_3(view.contiguous(), noise(1).expand(view.shape))


def test_the_input_is_left_as_it_was() -> None:
    x = noise(50)
    before = x.clone()
    assert adarelu(x).data_ptr() != x.data_ptr()
    assert torch.equal(x, before)


# The plain path and the faster ones


class Watched(TorchDispatchMode):
    """Somebody who follows every operation, so that AdaReLU takes its plain path."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def bits(x: Tensor) -> Tensor:
    """Return the bits as integers; of NaN any."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return x.where(~x.isnan(), NAN).view(integer)


def with_gradient(x: Tensor, incoming: Tensor) -> list[Tensor]:
    leaf = x.detach().requires_grad_()
    output = adarelu(leaf)
    [gradient] = torch.autograd.grad(output, leaf, incoming)
    return [output.detach(), gradient]


def assert_same_bits(x: Tensor, incoming: Tensor) -> None:
    fast = with_gradient(x, incoming)
    with Watched():
        plain = with_gradient(x, incoming)
    for one, other in zip(fast, plain, strict=True):
        assert one.stride() == other.stride()
        assert torch.equal(bits(one), bits(other))


def scattered(*shape: int, dtype: torch.dtype, special: float = 0.2) -> Tensor:
    """Return noise with special values at random places."""
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), shape, generator=generator)]
    chosen = torch.rand(shape, generator=generator) < special
    return torch.where(chosen, values, torch.randn(shape, generator=generator)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("special", [0.0, 0.2])
@pytest.mark.parametrize("shift", [0.5, -0.5])
@pytest.mark.parametrize("per_thread", [5, 64, 2**18])
def test_the_cpu_gives_the_bits_of_the_plain_path(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    special: float,
    shift: float,
    per_thread: int,
) -> None:
    monkeypatch.setattr(blocks, "_PER_THREAD", per_thread)
    x = scattered(3, 5, 7, 9, dtype=dtype, special=special) + shift
    incoming = scattered(3, 5, 7, 9, dtype=dtype).flip(0)
    for format in (torch.contiguous_format, torch.channels_last):
        assert_same_bits(x.to(memory_format=format), incoming.to(memory_format=format))
    assert_same_bits(x.permute(2, 0, 3, 1), incoming.permute(2, 0, 3, 1))
    assert_same_bits(x[:, ::2, :, 1:], incoming[:, ::2, :, 1:])
    assert_same_bits(x.to(memory_format=torch.channels_last), incoming)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES), per_thread=st.integers(1, 20))
def test_blocks_add_up(data: st.DataObject, dtype: torch.dtype, per_thread: int) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5))
    arrays = hnp.arrays(np.float32, shape, elements=ELEMENTS)
    order = data.draw(st.permutations(range(len(shape))))
    x = torch.from_numpy(data.draw(arrays)).to(dtype).permute(order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_PER_THREAD", per_thread)
        balance = blocks.count(x)
    assert balance.item() == sum((v > 0) - (v < 0) for v in x.flatten().tolist())
    assert (balance.dtype, balance.shape) == (torch.int64, ())


@pytest.mark.usefixtures("one_thread")  # a block is for every thread
@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_no_temporary_on_the_cpu_is_as_large_as_the_tensor(shift: float) -> None:
    x = noise(2**20, shift=shift).requires_grad_()
    incoming = noise(2**20)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        torch.autograd.grad(adarelu(x), x, incoming)
    large = [e.name for e in seen.events() if e.self_cpu_memory_usage >= x.nbytes]
    assert [name.startswith("aten::") for name in large] == [True, True]  # output and gradient


def test_a_tensor_that_is_negated_only_when_read() -> None:
    x = torch.complex(noise(20), noise(20, shift=0.5)).conj().imag
    assert x.is_neg()
    assert torch.equal(adarelu(x), adarelu(x.clone()))


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning", "error::torch.jit.TracerWarning")
@pytest.mark.parametrize("tracer", ["jit", "fx"])
def test_a_trace_holds_both_branches(tracer: str) -> None:
    x = noise(50, shift=0.5)
    traced = torch.jit.trace(adarelu, x) if tracer == "jit" else make_fx(adarelu)(x)
    for value in (x, -x):
        assert torch.equal(traced(value), adarelu(value))


# Autograd


def test_without_gradient() -> None:
    assert not adarelu(noise(10)).requires_grad
    with torch.no_grad():
        assert not adarelu(noise(10).requires_grad_()).requires_grad


def test_only_the_output_is_saved_for_backward() -> None:
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x = noise(4, 5).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = adarelu(x)
    assert [tensor.data_ptr() for tensor in saved] == [output.data_ptr()]


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_first_and_second_derivatives(shift: float) -> None:
    x = noise(3, 7, shift=shift, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(adarelu, x)
    assert torch.autograd.gradgradcheck(lambda x: adarelu(x).pow(3), x)


# Transformations


@pytest.mark.parametrize("in_dim", [0, 1])
def test_vmapped_examples_vote_alone(in_dim: int) -> None:
    x = torch.stack([noise(5, 6, shift=shift) for shift in (-1, 0, 1)], in_dim)
    alone = torch.stack([adarelu(example) for example in x.unbind(in_dim)])
    assert torch.equal(torch.func.vmap(adarelu, in_dims=in_dim)(x), alone)
    assert not torch.equal(adarelu(x.movedim(in_dim, 0)), alone)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_vmap_over_single_elements(dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, -1.0, 0.0, NAN], dtype=dtype)
    expected = torch.tensor([0.0, 0.0, 0.0, NAN], dtype=dtype)  # the lone sign is the majority
    output = torch.func.vmap(adarelu)(x)
    torch.testing.assert_close(output, expected, rtol=0, atol=0, equal_nan=True)


def test_nested_vmap() -> None:
    x = noise(3, 4, 50)
    nested = torch.func.vmap(torch.func.vmap(adarelu))(x)
    alone = torch.stack([adarelu(example) for example in x.flatten(0, 1)])
    assert torch.equal(nested, alone.reshape(x.shape))


def test_vmapped_gradients() -> None:
    def loss(x: Tensor) -> Tensor:
        return adarelu(x).square().sum()

    x = torch.stack([noise(5, 6, shift=shift) for shift in (-1, 0, 1)])
    gradients = torch.func.vmap(torch.func.grad(loss))(x)
    assert torch.equal(gradients, torch.stack([2 * adarelu(example) for example in x]))


def assert_compiles(backend: str, dtype: torch.dtype) -> None:
    torch.compiler.reset()
    compiled = torch.compile(AdaReLU(), fullgraph=True, backend=backend)
    special = torch.tensor([NAN, INF, -INF, 0.0, -0.0], dtype=dtype)
    for shift in (0.5, -0.5):
        x = torch.cat([noise(4, 5, 6, shift=shift, dtype=dtype).flatten(), special])
        incoming = noise(x.numel(), dtype=dtype)
        incoming[::7] = NAN
        results = []
        for function in (adarelu, compiled):
            leaf = x.clone().requires_grad_()
            output = function(leaf)
            output.backward(incoming)
            results.append((output.detach(), leaf.grad))
        torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compiles_without_graph_break(dtype: torch.dtype) -> None:
    assert_compiles("aot_eager", dtype)


@pytest.mark.long
@pytest.mark.compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiles_with_inductor(dtype: torch.dtype) -> None:
    assert_compiles("inductor", dtype)


def test_compiled_network_has_no_graph_break() -> None:
    torch.compiler.reset()
    network = nn.Sequential(nn.Conv2d(2, 3, 3), AdaReLU(), nn.Conv2d(3, 1, 1), AdaReLU())
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    images = noise(4, 2, 6, 6)
    expected = torch.autograd.grad(network(images).sum(), list(network.parameters()))
    compiled(images).sum().backward()
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_a_dynamic_batch(strict: bool) -> None:
    example = noise(4, 3, 5, 5)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(
        AdaReLU(), (example,), dynamic_shapes=({0: batch},), strict=strict
    ).module()
    for x in (noise(7, 3, 5, 5, shift=0.5), noise(2, 3, 5, 5, shift=-0.5)):
        assert torch.equal(exported(x), adarelu(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), AdaReLU())
    with torch.autocast("cpu", dtype=dtype):
        pre_activation = network[0](noise(4, 2, 6, 6))
        output = network(noise(4, 2, 6, 6))
        full = adarelu(noise(9))
    assert output.dtype == dtype
    assert full.dtype == torch.float32
    assert torch.equal(output, adarelu(pre_activation))
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


# The running vote


def follow(balances: list[float]) -> float:
    running = 0.0
    for balance in balances:
        running = 0.9 * running + 0.1 * balance
    return running


@settings(max_examples=50, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_the_running_balance_follows_the_batches(data: st.DataObject, dtype: torch.dtype) -> None:
    module, balances = AdaReLU("running"), []
    assert module.running_balance.item() == 0
    for shape in data.draw(st.lists(SHAPES, max_size=6)):
        arrays = hnp.arrays(np.float32, shape, elements=ELEMENTS)
        x = torch.from_numpy(np.asarray(data.draw(arrays))).to(dtype)
        output = module(x)  # in training the batch decides
        torch.testing.assert_close(output, adarelu(x), rtol=0, atol=0, equal_nan=True)
        votes = [(value > 0) - (value < 0) for value in x.flatten().tolist()]
        balances.append(sum(votes) / len(votes) if votes else 0.0)
    assert module.running_balance.item() == pytest.approx(follow(balances), rel=1e-5, abs=1e-7)
    assert module.running_balance.dtype == torch.float32


@pytest.mark.parametrize(("balance", "branch"), [(0.01, min), (-0.01, max), (0.0, max)])
def test_the_running_balance_decides_alone(balance: float, branch: Any) -> None:
    module = AdaReLU("running").eval()
    module.running_balance.fill_(balance)
    for shift in (1.0, -1.0):
        x = noise(4, 5, shift=shift)
        assert module(x).tolist() == [[branch(v, 0.0) for v in row] for row in x.tolist()]
    assert module.running_balance == torch.tensor(balance)  # evaluation changes nothing
    with pytest.raises(TypeError, match="floating-point"):
        module(torch.ones(3, dtype=torch.int64))


def test_the_running_balance_has_no_gradient_and_is_no_parameter() -> None:
    module = AdaReLU("running")
    x = noise(3, 7, shift=0.5).requires_grad_()
    module(x).sum().backward()
    assert torch.equal(x.grad, (adarelu(x) != 0).float())
    assert not list(module.parameters())
    assert not module.running_balance.requires_grad


def test_a_running_module_is_kept_and_copied() -> None:
    module = AdaReLU("running")
    for shift in (0.5, 1.0, -0.2):
        module(noise(30, shift=shift))
    assert set(module.state_dict()) == {"running_balance"}
    restored = AdaReLU("running")
    restored.load_state_dict(module.state_dict())
    copied, unpickled = copy.deepcopy(module), pickle.loads(pickle.dumps(module))
    for twin in (restored, copied, unpickled):
        assert twin.running_balance == module.running_balance > 0
        assert twin.running_balance.data_ptr() != module.running_balance.data_ptr()
        assert torch.equal(twin.eval()(noise(9)), noise(9).clamp(max=0))
    assert repr(module) == "AdaReLU(eval_mode='running')"
    with pytest.raises(RuntimeError, match="running_balance"):
        AdaReLU().load_state_dict(module.state_dict())


def test_unknown_evaluation_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="'mean': give 'batch' or 'running'"):
        AdaReLU("mean")  # type: ignore[arg-type]


@pytest.mark.parametrize("training", [True, False])
def test_a_running_module_compiles_without_graph_break(training: bool) -> None:
    torch.compiler.reset()
    plain = AdaReLU("running").train(training)
    plain.running_balance.fill_(0.01)
    inside = copy.deepcopy(plain)
    compiled = torch.compile(inside, fullgraph=True, backend="aot_eager")
    for shift in (0.5, -0.5, -0.5):
        results = []
        for module in (plain, compiled):
            x = noise(4, 5, 6, shift=shift).requires_grad_()
            output = module(x)
            output.square().sum().backward()
            results.append((output.detach(), x.grad))
        torch.testing.assert_close(*results, rtol=0, atol=0)
        torch.testing.assert_close(inside.running_balance, plain.running_balance)
    assert (plain.running_balance == torch.tensor(0.01)) == (not training)


@pytest.mark.parametrize("balance", [0.5, -0.5])
def test_a_running_module_exports_with_a_dynamic_batch(balance: float) -> None:
    module = AdaReLU("running").eval()
    module.running_balance.fill_(balance)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(
        module, (noise(4, 3, 5, 5),), dynamic_shapes=({0: batch},)
    ).module()
    for x in (noise(7, 3, 5, 5, shift=0.5), noise(2, 3, 5, 5, shift=-0.5)):
        assert torch.equal(exported(x), module(x))


# What is recorded, and a vote per sample


@settings(max_examples=50, deadline=None)
@given(
    batches=st.lists(st.lists(st.sampled_from(SPECIAL), max_size=30), max_size=5),
    mode=st.sampled_from(["batch", "running"]),
    dtype=st.sampled_from(DTYPES),
)
def test_votes_are_recorded_in_training(
    batches: list[list[float]], mode: Any, dtype: torch.dtype
) -> None:
    module = AdaReLU(mode)
    module.recorded = []
    for values in batches:
        module.train()(torch.tensor(values, dtype=dtype))
        module.eval()(torch.tensor(values, dtype=dtype))  # not recorded
    expected = []
    for values in batches:
        rounded = torch.tensor(values, dtype=dtype).tolist()
        expected.append((sum((v > 0) - (v < 0) for v in rounded), len(values)))
    assert [(balance.item(), count) for balance, count in module.recorded] == expected
    for balance, _ in module.recorded:
        assert (balance.dtype, balance.shape) == (torch.int64, ())
        assert not balance.requires_grad
    module.recorded = None
    module.train()(torch.ones(3))
    assert module.recorded is None


@settings(max_examples=100, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_a_vote_per_sample_is_that_of_batches_of_one(
    data: st.DataObject, dtype: torch.dtype
) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=6))
    arrays = hnp.arrays(np.float32, shape, elements=ELEMENTS)
    x = torch.from_numpy(data.draw(arrays)).to(dtype)
    module = AdaReLU().eval()
    module.vote_per_sample = True
    alone = torch.cat([adarelu(x[index : index + 1]) for index in range(len(x))])
    torch.testing.assert_close(module(x), alone, rtol=0, atol=0, equal_nan=True)
    # In training, and where the running vote decides, it changes nothing.
    whole = module.train()(x)
    torch.testing.assert_close(whole, adarelu(x), rtol=0, atol=0, equal_nan=True)
    running = AdaReLU("running").eval()
    running.vote_per_sample = True
    torch.testing.assert_close(running(x), x.clamp(min=0), rtol=0, atol=0, equal_nan=True)


def test_a_vote_per_sample_keeps_the_layout() -> None:
    x = noise(3, 5, 4, 6).to(memory_format=torch.channels_last)
    module = AdaReLU().eval()
    module.vote_per_sample = True
    assert module(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(module(torch.tensor(2.0)), torch.tensor(0.0))  # a lone sample
    assert not torch.equal(module(x), adarelu(x))


# Devices. On the meta device and on fake tensors any look at a value raises.


def test_the_vote_is_not_read_by_the_host() -> None:
    on_meta = torch.empty(4, 3, 2, 2, device="meta", requires_grad=True)
    adarelu(on_meta).sum().backward()
    with FakeTensorMode():
        fake = torch.empty(4, 3, 2, 2, requires_grad=True)
        output = adarelu(fake)
        output.sum().backward()
        assert output.shape == (4, 3, 2, 2)


@pytest.mark.parametrize("mode", ["batch", "running"])
def test_no_mode_is_read_by_the_host(mode: Any) -> None:
    module = AdaReLU(mode).to("meta")
    module.recorded = []
    x = torch.empty(4, 3, 2, 2, device="meta", requires_grad=True)
    module(x).sum().backward()
    [(balance, count)] = module.recorded
    assert (balance.device.type, count) == ("meta", 48)
    module.eval()(x).sum().backward()
    module.vote_per_sample = True
    module(x).sum().backward()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_synchronization_on_cuda(dtype: torch.dtype) -> None:
    special = torch.tensor([NAN, INF, -INF, 0.0, -0.0], dtype=dtype)
    for shift in (0.5, -0.5):
        x = torch.cat([noise(3000, shift=shift, dtype=dtype), special])
        incoming = noise(x.numel(), dtype=dtype)
        incoming[::7] = NAN
        results = []
        for device in ("cpu", "cuda"):
            leaf, g = x.to(device, copy=True).requires_grad_(), incoming.to(device)
            previous = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                output = adarelu(leaf)
                output.backward(g)
            finally:
                torch.cuda.set_sync_debug_mode(previous)
            assert leaf.grad is not None
            results.append((output.detach().cpu(), leaf.grad.cpu()))
        torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["batch", "running"])
def test_no_mode_synchronizes_on_cuda(mode: Any) -> None:
    modules = {device: AdaReLU(mode).to(device) for device in ("cpu", "cuda")}
    for shift in (0.5, 0.5, -0.5):
        x = noise(6, 500, shift=shift)
        outputs = []
        for device, module in modules.items():
            module.recorded, on_device = [], x.to(device)
            previous = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                outputs.append([module.train()(on_device), module.eval()(on_device)])
                module.vote_per_sample = True
                outputs[-1].append(module(on_device))
                module.vote_per_sample = False
            finally:
                torch.cuda.set_sync_debug_mode(previous)
        for here, there in zip(*outputs, strict=True):
            assert torch.equal(here, there.cpu())
        [(here, _)], [(there, _)] = (module.recorded for module in modules.values())
        assert here == there.cpu()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cuda_gives_the_bits_of_its_plain_path(dtype: torch.dtype) -> None:
    for shift in (0.5, -0.5):
        x = (scattered(3, 50, 7, 9, dtype=dtype) + shift).cuda()
        incoming = scattered(3, 50, 7, 9, dtype=dtype).flip(0).cuda()
        for format in (torch.contiguous_format, torch.channels_last):
            assert_same_bits(x.to(memory_format=format), incoming.to(memory_format=format))
        assert_same_bits(x[:, ::2, :, 1:], incoming[:, ::2, :, 1:])
        assert_same_bits(x[:0], incoming[:0])
        assert_same_bits(x[0, 0, 0, 0], incoming[0, 0, 0, 0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_cuda_graph_holds_both_branches(dtype: torch.dtype) -> None:
    values = noise(8, 16, 5, 5, shift=0.5, dtype=dtype).cuda()
    x = values.clone().requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        with_gradient(x, values)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = with_gradient(x, values)
    for replayed in (values, -values, values):
        with torch.no_grad():
            x.copy_(replayed)
        graph.replay()
        for one, other in zip(captured, with_gradient(replayed, values), strict=True):
            assert torch.equal(one, other)


# The module and the package


def test_module_is_stateless_and_copies() -> None:
    module, x = AdaReLU(), noise(20)
    assert not module.state_dict()
    assert not list(module.parameters())
    assert repr(module) == "AdaReLU()"
    for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module.eval()):
        assert isinstance(twin, AdaReLU)
        assert torch.equal(twin(x), adarelu(x))


def test_import_brings_in_torch_and_nothing_else() -> None:
    code = """
import sys, torch
before = {name.partition(".")[0] for name in sys.modules}
from adarelu_sweep import AdaReLU
AdaReLU()(torch.ones(3))
after = {name.partition(".")[0] for name in sys.modules}
print(*sorted(after - before))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["adarelu_sweep"], result.stderr
