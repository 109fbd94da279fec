"""The attention decoder, compared with the paper's formulas for one hypothesis of one image."""

from typing import Any

import pytest
import torch

from atlas_model.model import decoder as decoder_module
from atlas_model.model.decoder import AttentionDecoder, DecoderState
from tests.support.slow_search import make_decoder


@torch.no_grad()
def plain_step(
    decoder: AttentionDecoder, cells: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor, token: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden state, cell state and attention after ``token``, from vectors."""
    energies = [
        decoder.score(torch.relu(decoder.project_cells(each) + decoder.project_hidden(hidden))) for each in cells
    ]
    attention = torch.cat(energies).softmax(0)
    attended = sum(weight * each for weight, each in zip(attention, cells, strict=True))
    gated = torch.sigmoid(decoder.gate(hidden)) * attended
    lstm = decoder.lstm
    x = torch.cat([decoder.embedding.weight[token], gated])
    parts = lstm.weight_ih @ x + lstm.bias_ih + lstm.weight_hh @ hidden + lstm.bias_hh
    forget_in, forget, new, out = parts.chunk(4)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(forget_in) * torch.tanh(new)
    return torch.sigmoid(out) * torch.tanh(cell), cell, attention


@pytest.mark.parametrize("cached_floats", [1, 70, 2**18])
def test_step_follows_the_formulas_of_the_paper(cached_floats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "CACHED_FLOATS", cached_floats)
    decoder = make_decoder(9, seed=4)
    cells, tokens = torch.randn(5, 4, 6), torch.randint(3, 9, (5, 3))
    with torch.no_grad():
        memory, _ = decoder.start(cells)
        state = DecoderState(torch.randn(5, 3, 7), torch.randn(5, 3, 7))
        new, attention = decoder.step(memory, state, tokens)
    for b in range(5):
        for k in range(3):
            hidden, cell, looked = plain_step(
                decoder, cells[b], state.hidden[b, k], state.cell[b, k], int(tokens[b, k])
            )
            torch.testing.assert_close(new.hidden[b, k], hidden)
            torch.testing.assert_close(new.cell[b, k], cell)
            torch.testing.assert_close(attention[b, k], looked)


def test_initial_state_uses_the_mean_of_the_cells() -> None:
    decoder = make_decoder(9, seed=4)
    cells = torch.randn(2, 4, 6)
    _, state = decoder.start(cells)
    torch.testing.assert_close(state.hidden[:, 0], decoder.first_hidden(cells.mean(1)))
    torch.testing.assert_close(state.cell[:, 0], decoder.first_cell(cells.mean(1)))


@pytest.mark.parametrize("gradients", [True, False])
def test_teacher_forcing_equals_single_steps(gradients: bool) -> None:
    decoder = make_decoder(9, seed=2)
    cells, tokens = torch.randn(3, 4, 6), torch.randint(3, 9, (3, 5))
    with torch.set_grad_enabled(gradients):
        readout, attention = decoder(cells, tokens)
    with torch.no_grad():
        memory, state = decoder.start(cells)
        for step in range(5):
            state, looked = decoder.step(memory, state, tokens[:, step, None])
            torch.testing.assert_close(readout[:, step], decoder.readout(cells, state.hidden, looked)[:, 0])
            torch.testing.assert_close(attention[:, step], looked[:, 0])
    assert torch.allclose(attention.sum(-1), torch.ones(3, 5))


def test_gathers_states_by_hypothesis() -> None:
    hidden = torch.arange(2 * 3 * 1.0).view(2, 3, 1)
    state = DecoderState(hidden, -hidden).at(torch.tensor([[2, 0], [1, 1]]))
    assert state.hidden.squeeze(-1).tolist() == [[2, 0], [4, 4]]
    assert state.cell.squeeze(-1).tolist() == [[-2, 0], [-4, -4]]


def test_logits_of_selected_tokens_equal_full_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make_decoder(9, seed=3)
    hidden = torch.randn(2, 3, 7)
    tokens, valid = torch.randint(0, 9, (3, 4)), torch.rand(3, 4) < 0.7
    every = decoder.logits(hidden)
    found, gradients = [], []
    for few in (0, 1024):
        monkeypatch.setattr(decoder_module, "FEW_TOKENS", few)
        logits = decoder.logits_of(hidden, tokens, valid)
        decoder.zero_grad()
        logits[:, valid].square().sum().backward()
        found.append(logits)
        gradients.append((decoder.output.weight.grad.clone(), decoder.output.bias.grad.clone()))
    for logits in found:
        for n, f in torch.ones(3, 4).nonzero().tolist():
            expected = every[:, n, tokens[n, f]] if valid[n, f] else torch.full((2,), -torch.inf)
            torch.testing.assert_close(logits[:, n, f], expected)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_deep_output_reads_context_and_hidden_state() -> None:
    decoder = AttentionDecoder(
        5, cell_features=2, attention_size=3, embedding_size=3, hidden_size=2, dropout=0.0, deep_output=True
    ).eval()
    cells = torch.tensor([[[1.0, 0.0], [0.0, 4.0]]])
    hidden, attention = torch.tensor([[[10.0, 20.0]]]), torch.tensor([[[0.25, 0.75]]])
    with torch.no_grad():
        decoder.read_attended.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        assert decoder.readout(cells, hidden, attention).tolist() == [[[10.25, 23.25]]]


def test_feature_dropout_zeroes_whole_features_in_training_only() -> None:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        "cell_features": 64,
        "attention_size": 5,
        "embedding_size": 4,
        "hidden_size": 7,
        "dropout": 0.0,
    }
    decoder = AttentionDecoder(9, **sizes, deep_output=True, feature_dropout=0.5)
    with torch.no_grad():
        decoder.read_attended.weight.copy_(torch.eye(7, 64))
    cells, tokens = torch.ones(200, 4, 64), torch.randint(3, 9, (200, 2))
    seen = []
    decoder.readout = lambda cells, hidden, attention: seen.append(cells) or hidden
    decoder(cells, tokens)
    (dropped,) = seen
    assert set(dropped.unique().tolist()) == {0.0, 2.0}, "zeroed, or scaled up"
    assert dropped[:, :1].expand_as(dropped).equal(dropped), "the same in all cells"
    assert 0.45 < (dropped == 0).float().mean() < 0.55
    decoder.eval()
    decoder(cells, tokens)
    assert seen[1].equal(cells)
