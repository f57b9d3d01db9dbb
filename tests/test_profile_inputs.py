"""What may be profiled and what not: inputs, compiled and wrapped networks, layers that devices run differently."""

import re
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import attnzoo

X = (1, 3, 4, 4)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())


@pytest.mark.parametrize(
    "size",
    [
        None,
        (),
        [],
        5,
        True,
        "1, 3, 4, 4",
        (True, 3, 4, 4),
        (1, 3, 4.5, 4),
        (1, 3, 4.0, 4),
        (1, 3, 4j, 4),
        (1, 3, float("inf"), 4),
        (1, 3, "4", 4),
        (1, 3, None, 4),
        (1, 3, -4, 4),
        (1, 3, 0, 4),
        (X, 4),
        (X, (1, "3")),
    ],
)
def test_what_is_no_input_size_is_named_in_one_line(size: Any) -> None:
    with pytest.raises(ValueError, match=r"must be \(N, C, \*spatial\) in whole numbers above 0") as error:
        attnzoo.profile(network(), size)
    assert str(error.value).startswith(f"input_size={size!r} must be ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [torch.Size(X), list(X), [X], torch.tensor(X), iter(X)])
def test_whole_numbers_of_any_kind_are_an_input_size(size: Any) -> None:
    assert attnzoo.profile(network(), size).input_size == (X,)


@pytest.mark.parametrize("model", [None, nn.ReLU, F.relu, torch.compile(lambda x: x, backend="eager"), "resnet18"])
def test_what_is_no_module_is_named_in_one_line(model: Any) -> None:
    with pytest.raises(ValueError, match=r"must be an nn\.Module; ") as error:
        attnzoo.profile(model, X)
    assert str(error.value).startswith("model=")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("error", [KeyError("who"), OSError("disk"), EOFError("end"), LookupError()])
def test_whatever_a_forward_raises_is_named_in_one_line(error: Exception) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error

    line = f"input size {X} cannot go through this Broken: {type(error).__name__}"
    with pytest.raises(ValueError, match=re.escape(line)):
        attnzoo.profile(Broken(), X)


class Own(nn.Module):
    """A network whose forward is not one of torch's own, which torch.compile wraps in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


class Decorated(Own):
    """Compiled as a method of the class."""

    forward = torch.compile(Own.forward, backend="eager")  # type: ignore[assignment]


def compiled(function: Any) -> Any:
    return torch.compile(function, backend="eager")


@pytest.mark.parametrize("build", [network, Own])
def test_of_a_compiled_forward_the_network_is_counted(build: Callable[[], nn.Module]) -> None:
    model = build()
    cost = attnzoo.profile(model, X)
    assert cost.macs == 3 * 8 * 16
    assert attnzoo.profile(model.forward, X) == attnzoo.profile(compiled(model.forward), X) == cost  # type: ignore[arg-type]
    model.forward = compiled(model.forward)  # type: ignore[method-assign]
    kept = model.forward
    assert attnzoo.profile(model, X) == cost
    assert attnzoo.profile(nn.Sequential(model), X).macs == cost.macs
    assert model.forward is kept
    assert attnzoo.profile(Decorated(), X).macs == cost.macs


def test_a_forward_that_was_replaced_and_bound_is_that_of_the_copy() -> None:
    model = network()
    model.forward = compiled(MethodType(lambda self, x: self[0](self[0](x).narrow(1, 0, 3)), model))  # type: ignore[method-assign]
    assert attnzoo.profile(model, X).macs == 2 * 3 * 8 * 16


def test_wrappers_do_not_show_in_the_paths_of_modules() -> None:
    plain = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)), nn.ReLU())
    cost = attnzoo.profile(plain, X)
    inside = nn.Sequential(plain[0][0], nn.DataParallel(plain[0][1]))
    wrapped = nn.DataParallel(nn.Sequential(nn.DataParallel(compiled(inside)), compiled(plain[1])))
    assert attnzoo.profile(wrapped, X) == cost
    assert set(cost.modules) == {"", "0", "0.0", "0.1", "1"}


class Grouped(nn.Module):
    """Attention in which heads share keys and values."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


@pytest.mark.parametrize("heads", [(8, 8), (8, 2), (6, 1)])
def test_shared_keys_and_values_are_one_kernel_as_on_the_cpu(heads: tuple[int, int]) -> None:
    q, kv = (2, heads[0], 16, 32), (2, heads[1], 24, 32)
    inputs = [torch.randn(size) for size in (q, kv, kv)]
    cost = attnzoo.profile(Grouped(), (q, kv, kv))
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        out = Grouped()(*inputs)  # as products, since torch 2.13 and 2.14 count none in the CPU's kernel
    assert 2 * cost.macs == counter.get_total_flops() == 2 * 2 * 2 * heads[0] * 16 * 24 * 32
    assert (cost.device, cost.kernels) == ("meta", 1)
    assert cost.bytes_read == 4 * sum(x.numel() for x in inputs)
    assert cost.bytes_written == 4 * (out.numel() + out[..., 0].numel())  # and the logarithm of each sum
    kept: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        held = Grouped()(*(x.requires_grad_() for x in inputs))
    assert cost.saved == sum(kept.values())
    del held


@pytest.mark.parametrize("key", [(2, 3, 24, 32), (2, 1, 24, 32), (1, 8, 24, 32)])
def test_heads_that_do_not_fit_cost_what_the_cpu_makes_of_them(key: tuple[int, ...]) -> None:
    class Plain(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v)

    q = (2, 8, 16, 32)
    inputs = [torch.randn(size) for size in (q, key, key)]
    try:
        Plain()(*inputs)
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            Plain()(*inputs)
    except RuntimeError:
        with pytest.raises(ValueError, match="cannot go through this Plain"):
            attnzoo.profile(Plain(), (q, key, key))
    else:
        assert 2 * attnzoo.profile(Plain(), (q, key, key)).macs == counter.get_total_flops()


class NeedsValues(nn.Module):
    """A layer in a network that cannot run on the meta device."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x + x.sum().item())


@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_layers_multiply_alike_on_every_device(cell: type[nn.RNNBase], directions: int) -> None:
    steps, examples, features, units = 7, 2, 10, 20
    layer = cell(features, units, num_layers=2, batch_first=True, bidirectional=directions == 2)
    gates = {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4}[cell]  # type: ignore[index]
    products = gates * units * ((features + units) + (directions * units + units))
    size = (examples, steps, features)
    for model, device in ((layer, "meta"), (NeedsValues(layer), "cpu")):
        cost = attnzoo.profile(model, size)
        assert (cost.device, cost.macs, cost.unknown) == (device, directions * steps * examples * products, ())
        assert cost.by_counter["fvcore"] == 0  # to which a whole layer is one unknown operation
        assert cost.by_counter["torch"] in (0, 2 * cost.macs)  # of the CPU's kernel for nn.LSTM torch has no formula


def test_a_bilinear_layer_is_two_products() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Bilinear(5, 6, 7)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            z: Tensor = self.layer(x, y)
            return z

    x, y, pair = torch.randn(2, 3, 5), torch.randn(2, 3, 6), Pair()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        first = torch.einsum("nsi,oij->nsoj", x, pair.layer.weight)
        both = torch.einsum("nsoj,nsj->nso", first, y) + pair.layer.bias
    assert torch.allclose(both, pair(x, y), atol=1e-5)
    cost = attnzoo.profile(pair, (tuple(x.shape), tuple(y.shape)))
    assert (2 * cost.macs, cost.unknown) == (counter.get_total_flops(), ())
    assert cost.by_counter["torch"] == cost.by_counter["fvcore"] == 0  # neither knows it
    assert cost.zeros["_trilinear"] == 1
