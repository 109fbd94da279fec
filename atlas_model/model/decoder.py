"""The attention decoder: feature cells and previous tokens to the logits of the next token.

"Show, Attend and Tell" (Xu et al. 2015, arXiv 1502.03044) as the Atlas paper uses it: soft attention over the
cells (4.2), the gate beta (4.2.1), an LSTM cell over [embedding, attended]. Optionally, the attended cells also go
directly into the logits (the deep output layer, eq. 7), which takes fewer epochs to train.

The decoder does not use the taxonomy; the search selects valid tokens.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from atlas_model.model.teacher_forcing import TeacherForcing

FEW_TOKENS = 1024  # up to so many, computing all logits is faster than selecting rows
CACHED_FLOATS = 2**18  # size of a block of attention energies (1 MiB), which fits into the CPU's cache


@dataclass(frozen=True)
class DecoderMemory:
    """The cells of an image and their projection, which is the same for all steps."""

    cells: Float[Tensor, "b cells d"]
    projected: Float[Tensor, "b cells a"]


@dataclass(frozen=True)
class DecoderState:
    """State of the LSTM for ``k`` hypotheses per image."""

    hidden: Float[Tensor, "b k h"]
    cell: Float[Tensor, "b k h"]

    def at(self, index: Int[Tensor, "b k2"]) -> "DecoderState":
        """Select the states of the hypotheses ``index``."""
        wide = index.unsqueeze(-1).expand(-1, -1, self.hidden.shape[-1])
        return DecoderState(self.hidden.gather(1, wide), self.cell.gather(1, wide))


class AttentionDecoder(nn.Module):
    """Predicts a category path, one level name per step.

    Shape legend: b images, k hypotheses per image, t steps, v tokens, d features per cell, a attention size,
    h hidden size, f candidates for the next token.

    Args:
        vocabulary: number of tokens, v.
        cell_features: d.
        attention_size: a (512 in the paper).
        embedding_size: of a token (512 in the paper).
        hidden_size: h (512 in the paper).
        dropout: before the output layer (.5 in the paper).
        deep_output: whether the attended cells go into the logits directly (not in the Atlas paper).
        feature_dropout: dropout of the cells' features, the same in all cells of an image.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        cell_features: int,
        attention_size: int,
        embedding_size: int,
        hidden_size: int,
        dropout: float,
        deep_output: bool = False,
        feature_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.feature_dropout = nn.Dropout1d(feature_dropout)
        self.project_cells = nn.Linear(cell_features, attention_size)
        self.project_hidden = nn.Linear(hidden_size, attention_size)
        self.score = nn.Linear(attention_size, 1)
        self.embedding = nn.Embedding(vocabulary, embedding_size)
        self.gate = nn.Linear(hidden_size, cell_features)  # f_beta
        self.lstm = nn.LSTMCell(embedding_size + cell_features, hidden_size)
        self.first_hidden = nn.Linear(cell_features, hidden_size)
        self.first_cell = nn.Linear(cell_features, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.read_attended = nn.Linear(cell_features, hidden_size, bias=False) if deep_output else None
        self.output = nn.Linear(hidden_size, vocabulary)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def start(self, cells: Float[Tensor, "b cells d"]) -> tuple[DecoderMemory, DecoderState]:
        """Compute the memory for all steps, and the initial state of one hypothesis per image."""
        mean = cells.mean(dim=1, keepdim=True)  # (b, 1, d)
        return DecoderMemory(cells, self.project_cells(cells)), DecoderState(
            self.first_hidden(mean), self.first_cell(mean)
        )

    def step(
        self, memory: DecoderMemory, state: DecoderState, tokens: Int[Tensor, "b k"]
    ) -> tuple[DecoderState, Float[Tensor, "b k cells"]]:
        """Compute one step: the new state, and the attention (sums to one over the cells)."""
        return self._step(memory, state, self.embedding(tokens))

    def forward(
        self, cells: Float[Tensor, "b cells d"], tokens: Int[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b t h"], Float[Tensor, "b t cells"]]:
        """Teacher forcing: `readout` and attention of each step, given the previous ``tokens``."""
        if self.training and self.feature_dropout.p:
            cells = self.feature_dropout(cells.transpose(1, 2)).transpose(1, 2)
        embedded = self.embedding(tokens)  # (b, t, e)
        if cells.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            states, attention = self._all_steps(cells, embedded)
            return self.readout(cells, states, attention), attention
        memory, state = self.start(cells)
        hidden, attentions = [], []
        for step in range(tokens.shape[1]):
            state, attention = self._step(memory, state, embedded[:, step, None])
            hidden.append(state.hidden)
            attentions.append(attention)
        attention = torch.cat(attentions, dim=1)
        return self.readout(cells, torch.cat(hidden, dim=1), attention), attention

    def readout(
        self, cells: Float[Tensor, "b cells d"], hidden: Float[Tensor, "b k h"], attention: Float[Tensor, "b k cells"]
    ) -> Float[Tensor, "b k h"]:
        """The input of the output layer, from the hidden state and the attention of a step."""
        if self.read_attended is None:
            return hidden
        readout: Tensor = hidden + self.read_attended(attention @ cells)
        return readout

    def logits(self, readout: Float[Tensor, "b n h"]) -> Float[Tensor, "b n v"]:
        """Logits of all tokens as the next one."""
        logits: Tensor = self.output(self.dropout(readout))
        return logits

    def logits_of(
        self, readout: Float[Tensor, "b n h"], tokens: Int[Tensor, "n f"], valid: Bool[Tensor, "n f"]
    ) -> Float[Tensor, "b n f"]:
        """Logits of ``tokens`` only; -inf if not ``valid``. The cost depends on their number, not on the vocabulary."""
        if self.output.out_features <= FEW_TOKENS:
            logits = self.logits(readout)  # (b, n, v)
            return logits.gather(2, tokens.expand(len(readout), -1, -1)).masked_fill(~valid, -torch.inf)
        row, column = valid.nonzero(as_tuple=True)  # (e,): few are valid if one node is very wide
        token = tokens[row, column]
        weight = nn.functional.embedding(token, self.output.weight)  # (e, h)
        found = (self.dropout(readout)[:, row] * weight).sum(dim=-1) + self.output.bias[token]  # (b, e)
        padded: Tensor = found.new_full((*readout.shape[:2], tokens.shape[1]), -torch.inf)
        padded[:, row, column] = found
        return padded

    def _all_steps(
        self, cells: Float[Tensor, "b cells d"], embedded: Float[Tensor, "b t e"]
    ) -> tuple[Float[Tensor, "b t h"], Float[Tensor, "b t cells"]]:
        of_token, of_attended = self.lstm.weight_ih.split_with_sizes((embedded.shape[-1], cells.shape[-1]), dim=1)
        query_bias = self.project_cells.bias + self.project_hidden.bias
        lstm_bias = self.lstm.bias_ih + self.lstm.bias_hh
        hidden, attention = TeacherForcing.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            cells,
            nn.functional.linear(embedded, of_token),
            self.project_cells.weight,
            torch.cat([self.first_hidden.weight, self.first_cell.weight]),
            torch.cat([self.first_hidden.bias, self.first_cell.bias]),
            torch.cat([self.project_hidden.weight, self.gate.weight, self.lstm.weight_hh]),
            torch.cat([query_bias, self.gate.bias, lstm_bias]),
            of_attended,
            self.score.weight[0],
        )
        return hidden, attention

    def _step(
        self, memory: DecoderMemory, state: DecoderState, embedded: Float[Tensor, "b k e"]
    ) -> tuple[DecoderState, Float[Tensor, "b k cells"]]:
        b, k, _ = embedded.shape
        query = self.project_hidden(state.hidden)  # (b, k, a)
        attention = self._energy(memory.projected, query).softmax(dim=-1)  # (b, k, cells), range [0, 1]
        gate = torch.sigmoid(self.gate(state.hidden))  # (b, k, d), range (0, 1)
        x = torch.cat([embedded, gate * (attention @ memory.cells)], dim=-1).flatten(0, 1)  # (b * k, e + d)
        hidden, cell = self.lstm(x, (state.hidden.flatten(0, 1), state.cell.flatten(0, 1)))
        return DecoderState(hidden.view(b, k, -1), cell.view(b, k, -1)), attention

    def _energy(
        self, projected: Float[Tensor, "b cells a"], query: Float[Tensor, "b k a"]
    ) -> Float[Tensor, "b k cells"]:
        if torch.is_grad_enabled() or projected.device.type != "cpu":
            energy: Tensor = self.score(torch.relu_(projected.unsqueeze(1) + query.unsqueeze(2))).squeeze(-1)
            return energy
        # Up to a constant over the cells, which the softmax removes: relu(p + q) = max(p, -q) + q.
        b, k, _ = query.shape
        energy = projected.new_empty(b, k, projected.shape[1])
        images = max(1, CACHED_FLOATS // (k * projected[0].numel()))
        for start in range(0, b, images):
            block = slice(start, start + images)
            larger = torch.maximum(projected[block].unsqueeze(1), -query[block].unsqueeze(2))  # (., k, cells, a)
            energy[block] = larger @ self.score.weight[0]
        return energy
