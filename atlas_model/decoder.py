"""The attention decoder: feature cells and the tokens so far to the next token's logits.

"Show, Attend and Tell" (Xu et al. 2015, arXiv 1502.03044) as the Atlas paper uses it: soft attention over the
cells (4.2), the gate beta (4.2.1), an LSTM cell over [embedding, attended].

Knows nothing of taxonomies: which tokens make sense where is the search's concern.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Memory:
    """What the decoder keeps of a picture: its cells, and their projection, computed once."""

    cells: Float[Tensor, "b cells d"]
    projected: Float[Tensor, "b cells a"]


@dataclass(frozen=True)
class State:
    """The LSTM's state for ``k`` hypotheses a picture."""

    hidden: Float[Tensor, "b k h"]
    cell: Float[Tensor, "b k h"]

    def at(self, index: Int[Tensor, "b k2"]) -> "State":
        """The states of the hypotheses ``index``."""
        wide = index.unsqueeze(-1).expand(-1, -1, self.hidden.shape[-1])
        return State(self.hidden.gather(1, wide), self.cell.gather(1, wide))


class AttentionDecoder(nn.Module):
    """Writes a category path, one level name a step.

    Shape legend: b pictures, k hypotheses a picture, t steps, v tokens, d features a cell, a attention size,
    h hidden size.

    Args:
        vocabulary: number of tokens, v.
        cell_features: d.
        attention_size: a (512 in the paper).
        embedding_size: of a token (512 in the paper).
        hidden_size: h (512 in the paper).
        dropout: before the output layer, share of features (.5 in the paper).
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
    ) -> None:
        super().__init__()
        self.project_cells = nn.Linear(cell_features, attention_size)
        self.project_hidden = nn.Linear(hidden_size, attention_size)
        self.score = nn.Linear(attention_size, 1)
        self.embedding = nn.Embedding(vocabulary, embedding_size)
        self.gate = nn.Linear(hidden_size, cell_features)  # f_beta
        self.lstm = nn.LSTMCell(embedding_size + cell_features, hidden_size)
        self.first_hidden = nn.Linear(cell_features, hidden_size)
        self.first_cell = nn.Linear(cell_features, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, vocabulary)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def start(self, cells: Float[Tensor, "b cells d"]) -> tuple[Memory, State]:
        """Read the pictures: memory for all steps, and the state of one hypothesis each."""
        mean = cells.mean(dim=1, keepdim=True)  # (b, 1, d)
        return Memory(cells, self.project_cells(cells)), State(self.first_hidden(mean), self.first_cell(mean))

    def step(
        self, memory: Memory, state: State, tokens: Int[Tensor, "b k"]
    ) -> tuple[Float[Tensor, "b k v"], State, Float[Tensor, "b k cells"]]:
        """One step: logits of the next token, the new state, and the attention (sums to one over the cells)."""
        attended, attention = self._attend(memory, state.hidden)
        new = self._advance(state, self.embedding(tokens), attended)
        return self.output(self.dropout(new.hidden)), new, attention

    def forward(
        self, cells: Float[Tensor, "b cells d"], tokens: Int[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b t v"], Float[Tensor, "b t cells"]]:
        """Teacher forcing: logits and attention of each step, given the ``tokens`` that come before it."""
        memory, state = self.start(cells)
        embedded = self.embedding(tokens)  # (b, t, e)
        hidden, attentions = [], []
        for step in range(tokens.shape[1]):
            attended, attention = self._attend(memory, state.hidden)
            state = self._advance(state, embedded[:, step, None], attended)
            hidden.append(state.hidden)
            attentions.append(attention)
        logits = self.output(self.dropout(torch.cat(hidden, dim=1)))  # (b, t, v): one product for all steps
        return logits, torch.cat(attentions, dim=1)

    def _attend(
        self, memory: Memory, hidden: Float[Tensor, "b k h"]
    ) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b k cells"]]:
        query = self.project_hidden(hidden).unsqueeze(2)  # (b, k, 1, a)
        energy = torch.relu(memory.projected.unsqueeze(1) + query)  # (b, k, cells, a)
        attention = self.score(energy).squeeze(-1).softmax(dim=-1)  # (b, k, cells), range [0, 1]
        gate = torch.sigmoid(self.gate(hidden))  # (b, k, d), range (0, 1)
        return gate * (attention @ memory.cells), attention

    def _advance(self, state: State, embedded: Float[Tensor, "b k e"], attended: Float[Tensor, "b k d"]) -> State:
        b, k, _ = embedded.shape
        x = torch.cat([embedded, attended], dim=-1).flatten(0, 1)  # (b * k, e + d)
        hidden, cell = self.lstm(x, (state.hidden.flatten(0, 1), state.cell.flatten(0, 1)))
        return State(hidden.view(b, k, -1), cell.view(b, k, -1))
