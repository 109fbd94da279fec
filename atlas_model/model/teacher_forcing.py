"""Teacher forcing of the decoder on a CPU: an autograd function with a backward pass of its own.

The formulas are those of `decoder`, whose loop over steps is the reference. It is faster for two reasons: gradients
that the steps share (of the weights and the cells) are one matrix product for all steps, and the attention energies, by
far the largest tensors, are recomputed in blocks that fit into the processor's cache.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

CACHED_FLOATS = 2**18  # size of a block of attention energies: 1 MiB


class TeacherForcing(torch.autograd.Function):
    """Hidden state and attention of each step, given the previous tokens.

    Shape legend: b images, n cells, d features per cell, a attention size, t steps, h hidden size, g = 4 h (an LSTM's
    gates in torch's order), m = a + d + g (the projections of a hidden state: the attention's query, the gate beta, the
    LSTM's gates). Tensors of all steps have the steps as their first axis; d_x is the gradient of x.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - torch passes them by position
        ctx: Any,
        cells: Float[Tensor, "b n d"],
        tokens: Float[Tensor, "b t g"],  # their part of the LSTM's gates
        of_cell: Float[Tensor, "a d"],  # its part of the energy
        of_mean: Float[Tensor, "h2 d"],  # the first state: hidden, cell
        of_mean_bias: Float[Tensor, "h2"],
        of_hidden: Float[Tensor, "m h"],
        of_hidden_bias: Float[Tensor, "m"],
        of_attended: Float[Tensor, "g d"],  # its part of the LSTM's gates
        score: Float[Tensor, "a"],
    ) -> tuple[Float[Tensor, "b t h"], Float[Tensor, "b t n"]]:
        """Compute all steps, one after the other."""
        (b, n, d), (_, t, g) = cells.shape, tokens.shape
        projected = cells @ of_cell.T  # (b, n, a)
        mixed = cells.new_empty(t, b, len(of_hidden))
        hidden, memory = cells.new_empty(2, t + 1, b, g // 4)
        # The first state is made from the mean of the cells, which is uniform attention.
        looks, sees = cells.new_full((t + 1, b, n), 1 / n), cells.new_empty(t + 1, b, d)
        torch.mean(cells, dim=1, out=sees[0])
        hidden[0], memory[0] = torch.addmm(of_mean_bias, sees[0], of_mean.T).chunk(2, dim=1)
        for step in range(t):
            torch.addmm(of_hidden_bias, hidden[step], of_hidden.T, out=mixed[step])
            query, beta, gates = mixed[step].split_with_sizes((len(score), d, g), dim=1)
            torch.softmax(_energy(projected, query, score), dim=1, out=looks[step + 1])
            torch.bmm(looks[step + 1].unsqueeze(1), cells, out=sees[step + 1].unsqueeze(1))
            gates.add_(tokens[:, step]).addmm_(beta.sigmoid_() * sees[step + 1], of_attended.T)
            enter, forget, new, leave = gates.chunk(4, dim=1)
            torch.mul(forget.sigmoid_(), memory[step], out=memory[step + 1])
            memory[step + 1].addcmul_(enter.sigmoid_(), new.tanh_())
            torch.mul(leave.sigmoid_(), memory[step + 1].tanh(), out=hidden[step + 1])
        ctx.save_for_backward(
            cells, of_cell, of_mean, of_hidden, of_attended, score, projected, mixed, hidden, memory, looks, sees
        )
        return hidden[1:].transpose(0, 1), looks[1:].transpose(0, 1)

    @staticmethod
    def backward(
        ctx: Any, d_hiddens: Float[Tensor, "b t h"], d_attention: Float[Tensor, "b t n"]
    ) -> tuple[Tensor | None, ...]:
        """Compute the gradients of all arguments, from the last step to the first."""
        cells, of_cell, of_mean, of_hidden, of_attended, score, projected, *steps = ctx.saved_tensors
        mixed, hidden, memory, looks, sees = steps
        t, h = len(mixed), hidden.shape[-1]
        sizes = (len(score), sees.shape[-1], 4 * h)
        d_mixed, d_sees = torch.empty_like(mixed), torch.empty_like(sees)
        d_hidden, d_memory, d_score = (torch.zeros_like(like) for like in (hidden[0], memory[0], score))
        d_projected = torch.zeros_like(projected)  # without the factor `score`, as d_query at first
        for step in reversed(range(t)):
            query, beta, gates = mixed[step].split_with_sizes(sizes, dim=1)
            d_query, d_beta, d_gates = d_mixed[step].split_with_sizes(sizes, dim=1)
            d_hidden += d_hiddens[:, step]
            d_memory = _lstm_backward(
                gates, memory[step], memory[step + 1], d_hidden=d_hidden, d_after=d_memory, d_gates=d_gates
            )
            d_gated = d_gates @ of_attended  # (b, d)
            torch.mul(d_gated * sees[step + 1], beta * (1 - beta), out=d_beta)
            torch.mul(d_gated, beta, out=d_sees[step + 1])
            # A row times the cells: the cells times a column would be the same and take eight times as long.
            d_looks = torch.bmm(d_sees[step + 1].unsqueeze(1), cells.transpose(1, 2)).squeeze(1)  # (b, n)
            d_looks += d_attention[:, step]
            d_energy = looks[step + 1] * (d_looks - (looks[step + 1] * d_looks).sum(dim=1, keepdim=True))
            _energy_backward(projected, query, d_energy, d_projected, d_query)
            d_score += (query * d_query).sum(dim=0)
            d_query *= score
            d_hidden = d_mixed[step] @ of_hidden
        d_first = torch.cat([d_hidden, d_memory], dim=1)  # (b, 2 h)
        torch.mm(d_first, of_mean, out=d_sees[0])
        d_cells = None
        if ctx.needs_input_grad[0]:  # not for a frozen encoder
            d_cells = torch.bmm(looks.permute(1, 2, 0), d_sees.transpose(0, 1))  # (b, n, d)
            d_cells.flatten(0, 1).addmm_(d_projected.flatten(0, 1), score.unsqueeze(1) * of_cell)
        d_of_cell = d_projected.flatten(0, 1).T @ cells.flatten(0, 1)  # (a, d)
        d_score += (d_of_cell * of_cell).sum(dim=1)
        d_tokens = d_mixed[:, :, -4 * h :]  # (t, b, g)
        gated = mixed[:, :, len(score) : -4 * h] * sees[1:]  # (t, b, d)
        return (
            d_cells,
            d_tokens.transpose(0, 1),
            score.unsqueeze(1) * d_of_cell,
            d_first.T @ sees[0],
            d_first.sum(dim=0),
            d_mixed.flatten(0, 1).T @ hidden[:-1].flatten(0, 1),
            d_mixed.sum(dim=(0, 1)),
            d_tokens.flatten(0, 1).T @ gated.flatten(0, 1),
            d_score,
        )


def _energy(
    projected: Float[Tensor, "b n a"], query: Float[Tensor, "b a"], score: Float[Tensor, "a"]
) -> Float[Tensor, "b n"]:
    """Sum of score * relu(p + q), up to a constant over the cells: relu(p + q) = max(p, -q) + q."""
    energy = projected.new_empty(projected.shape[:2])
    for block in _blocks(projected):
        energy[block] = torch.maximum(projected[block], -query[block].unsqueeze(1)) @ score
    return energy


def _energy_backward(
    projected: Float[Tensor, "b n a"],
    query: Float[Tensor, "b a"],
    d_energy: Float[Tensor, "b n"],
    d_projected: Float[Tensor, "b n a"],
    d_query: Float[Tensor, "b a"],
) -> None:
    """Add to ``d_projected`` and fill ``d_query``, both without the factor `score`."""
    for block in _blocks(projected):
        on = (projected[block] + query[block].unsqueeze(1)).gt_(0)  # (., n, a), 0 or 1
        d_projected[block].addcmul_(d_energy[block].unsqueeze(2), on)
        torch.bmm(d_energy[block].unsqueeze(1), on, out=d_query[block].unsqueeze(1))


def _lstm_backward(
    gates: Float[Tensor, "b g"],
    before: Float[Tensor, "b h"],
    after: Float[Tensor, "b h"],
    *,
    d_hidden: Float[Tensor, "b h"],
    d_after: Float[Tensor, "b h"],
    d_gates: Float[Tensor, "b g"],
) -> Float[Tensor, "b h"]:
    """Fill ``d_gates`` (before the nonlinearities); return the gradient of the LSTM's cell ``before`` the step."""
    enter, forget, new, leave = gates.chunk(4, dim=1)
    d_enter, d_forget, d_new, d_leave = d_gates.chunk(4, dim=1)
    seen = after.tanh()
    torch.mul(d_hidden * seen, leave * (1 - leave), out=d_leave)
    d_after = d_after + d_hidden * leave * (1 - seen.square())
    torch.mul(d_after * new, enter * (1 - enter), out=d_enter)
    torch.mul(d_after * before, forget * (1 - forget), out=d_forget)
    torch.mul(d_after * enter, 1 - new.square(), out=d_new)
    return d_after * forget


def _blocks(projected: Float[Tensor, "b n a"]) -> Iterator[slice]:
    images = max(1, CACHED_FLOATS // projected[0].numel())
    for start in range(0, len(projected), images):
        yield slice(start, start + images)
