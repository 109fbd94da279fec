"""Teacher forcing with hand-written gradients, compared with numerical gradients and with the decoder's plain loop."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from atlas_model.model import teacher_forcing
from atlas_model.model.teacher_forcing import TeacherForcing
from tests.support.slow_search import make_decoder

B, N, D, A, H, T = 3, 5, 4, 6, 2, 3  # images, cells, features, attention, hidden, steps


@pytest.mark.parametrize("cached_floats", [1, 70, 2**18])
def test_gradients_equal_numerical_gradients(cached_floats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_forcing, "CACHED_FLOATS", cached_floats)
    torch.manual_seed(1)
    mixed = A + D + 4 * H
    shapes = [(B, N, D), (B, T, 4 * H), (A, D), (2 * H, D), (2 * H,), (mixed, H), (mixed,), (4 * H, D), (A,)]
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(TeacherForcing.apply, given)


@contextmanager
def plain_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the plain loop, as on a GPU or in mixed precision."""
    with monkeypatch.context() as patch:
        patch.setattr(torch, "is_autocast_enabled", lambda device_type: True)
        yield


@pytest.mark.parametrize("frozen", [True, False])
def test_equals_plain_loop(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make_decoder(9, seed=2)
    cells, tokens = torch.randn(4, 5, 6, requires_grad=not frozen), torch.randint(3, 9, (4, 3))
    weights = torch.randn(4, 3, 7), torch.randn(4, 3, 5)

    def outcome() -> list[torch.Tensor]:
        hidden, attention = decoder(cells, tokens)
        decoder.zero_grad()
        ((hidden * weights[0]).sum() + (attention * weights[1]).sum()).backward()
        unused = {"output.weight", "output.bias", "score.bias"}  # score.bias adds the same value to all cells
        gradients = [weight.grad.clone() for name, weight in decoder.named_parameters() if name not in unused]
        if not frozen:
            gradients.append(cells.grad.clone())
            cells.grad = None
        return [hidden, attention, *gradients]

    at_once = outcome()
    with plain_loop(monkeypatch):
        step_by_step = outcome()
    torch.testing.assert_close(at_once, step_by_step)
