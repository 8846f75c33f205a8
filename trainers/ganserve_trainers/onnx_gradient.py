"""From a module that takes a gradient to one made of plain operations, which the exporter takes like any other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

aten = torch.ops.aten


class TakesGradient(nn.Module):
    """Base of modules whose forward takes a gradient with ``torch.func.grad``: the exporter needs it written out first."""


def takes_gradient(module: nn.Module) -> bool:
    """Whether ``module`` or a part of it takes a gradient."""
    return any(isinstance(part, TakesGradient) for part in module.modules())


def write_out_gradient(module: nn.Module, example: Sequence[Tensor]) -> fx.GraphModule:
    """``module`` for inputs like ``example`` with any number of rows, as operations alone: backward ones stand among the forward ones.

    Weights keep their names. Of the inputs' sizes only the rows are free.
    """
    state: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    names = list(state)

    def flat(*tensors: Tensor) -> Any:
        weights = dict(zip(names, tensors, strict=False))
        return functional_call(module, weights, tensors[len(names) :])

    # Sizes are fixed but for the rows: with all of them free, as make_fx would have it, tracing takes six times as long.
    mode = FakeTensorMode(shape_env=ShapeEnv())
    fixed = [mode.from_tensor(tensor.detach(), static_shapes=True) for tensor in state.values()]
    free = [mode.from_tensor(tensor, symbolic_context=_rows_are_free(tensor)) for tensor in example]
    with mode:
        traced = make_fx(flat, decomposition_table=DECOMPOSITIONS)(*fixed, *free)
    _bind_weights(traced.graph, names)
    written_out = fx.GraphModule(module, traced.graph)
    _keep_linear(written_out.graph)
    written_out.recompile()
    return written_out


def _rows_are_free(tensor: Tensor) -> StatelessSymbolicContext[Any, Any]:
    return StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DUCK] + [DimDynamic.STATIC] * (tensor.ndim - 1))


def _bind_weights(graph: fx.Graph, names: Sequence[str]) -> None:
    """The first inputs of ``graph`` become the weights ``names`` of the module that it belongs to."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node, name in zip(placeholders, names, strict=False):
        with graph.inserting_before(node):
            weight = graph.create_node("get_attr", name)
        node.replace_all_uses_with(weight)
        graph.erase_node(node)


def _keep_linear(graph: fx.Graph) -> None:
    """Products with a transposed weight become linear layers again: else a second, transposed copy of it would be stored."""
    for node in graph.find_nodes(op="call_function", target=aten.t.default):
        weight = node.args[0]
        if weight.op == "get_attr":
            for user in list(node.users):
                _untranspose(graph, user, node, weight)
    graph.eliminate_dead_code()


def _untranspose(graph: fx.Graph, user: fx.Node, transposed: fx.Node, weight: fx.Node) -> None:
    if user.target == aten.t.default:
        user.replace_all_uses_with(weight)
    elif user.target in (aten.mm.default, aten.addmm.default) and user.args[-1] is transposed and not user.kwargs:
        *bias, values = user.args[:-1]
        with graph.inserting_before(user):
            linear = graph.call_function(aten.linear.default, (values, weight, *bias))
        user.replace_all_uses_with(linear)


def _convolution_backward(
    gradient: Tensor,
    values: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    # With the kernel as it is: a convolution's gradient is the transposed convolution, and the reverse.
    if any(output_mask[1:]):
        raise NotImplementedError("a gradient with respect to weights is not written out")
    plain = [0] * len(stride)
    if transposed:
        return aten.convolution(gradient, weight, None, stride, padding, dilation, False, plain, groups), None, None
    missing = [
        values.shape[axis] - ((gradient.shape[axis] - 1) * step - 2 * pad + spread * (weight.shape[axis] - 1) + 1)
        for axis, step, pad, spread in zip(range(2, values.ndim), stride, padding, dilation, strict=True)
    ]
    return aten.convolution(gradient, weight, None, stride, padding, dilation, True, missing, groups), None, None


def _select_backward(gradient: Tensor, sizes: Sequence[int], dim: int, index: int) -> Tensor:
    # Zeros around it: the exporter would scatter.
    dim = dim % len(sizes)
    index = index % sizes[dim]
    return _with_zeros(gradient.unsqueeze(dim), dim, index, sizes[dim] - index - 1)


def _slice_backward(gradient: Tensor, sizes: Sequence[int], dim: int, start: int, end: int, step: int) -> Any:
    dim = dim % len(sizes)
    whole = sizes[dim]
    if gradient.shape[dim] == whole:
        return gradient
    if step != 1 or isinstance(whole, torch.SymInt):
        return cast(Tensor, NotImplemented)  # so that it is traced as it is
    first = min(max(start + whole if start < 0 else start, 0), whole)
    return _with_zeros(gradient, dim, first, whole - first - gradient.shape[dim])


def _with_zeros(values: Tensor, dim: int, before: int, after: int) -> Tensor:
    # Not F.pad, which fixes the number of rows when it is traced.
    sizes = [[*values.shape[:dim], count, *values.shape[dim + 1 :]] for count in (before, after)]
    return torch.cat([values.new_zeros(sizes[0]), values, values.new_zeros(sizes[1])], dim)


DECOMPOSITIONS: Mapping[OpOverload[..., Any], Callable[..., Any]] = {
    aten.convolution_backward.default: _convolution_backward,
    aten.select_backward.default: _select_backward,
    aten.slice_backward.default: _slice_backward,
}
"""How backward operations that the exporter does not know, or writes badly, are made of others."""
