"""The path head (the classifier inside the sequence model): its scores over the tree, and their effect on searches."""

import numpy as np
import pytest
import torch

from atlas_model.confidence.calibration import fit_temperature
from atlas_model.data.images import Preprocessing
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.path_head import PathEdges
from atlas_model.model.saved_models import load_categorizer, save
from atlas_model.taxonomy.tree import Taxonomy

TAXONOMY = Taxonomy([("A", "x"), ("A", "y"), ("A",), ("B",), ("C", "d", "e"), ("C", "d", "x"), ("C", "g")])
ARCHITECTURE = Architecture(
    "small", 1, "native", 16, 8, 16, 0.0, normalize="children", deep_output=True, path_head=True
)


def make_model(*, deep: bool = True) -> Categorizer:
    torch.manual_seed(1)
    model = Categorizer(ARCHITECTURE, TAXONOMY).eval()
    with torch.no_grad():
        model.path_head.output.weight.mul_(3)
        if not deep:
            model.decoder.output.weight.zero_()
            model.decoder.output.bias.zero_()
    return model


def images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def test_edge_score_is_logsumexp_of_the_paths_below() -> None:
    scores = (50 * torch.randn(3, len(TAXONOMY))).requires_grad_()
    edges = PathEdges(TAXONOMY.trie)(scores)
    for edge in range(edges.shape[1]):
        below = [path for path, route in enumerate(TAXONOMY.trie.routes) if edge + 1 in route]
        torch.testing.assert_close(edges[:, edge], scores[:, below].logsumexp(dim=1))
    edges.sum().backward()
    assert scores.grad.isfinite().all()


@torch.no_grad()
def test_model_with_constant_decoder_equals_the_classifier() -> None:
    model = make_model(deep=False)
    cells = model.encoder(images(6))
    pooled = torch.stack([cells.mean(dim=1), cells.amax(dim=1)], dim=1)  # (b, 2, d)
    scores = model.path_head.output(torch.nn.functional.layer_norm(pooled, pooled.shape[2:]).flatten(1))
    expected = scores.log_softmax(dim=1)
    found = model.search_cells(cells, beam=len(TAXONOMY), top=len(TAXONOMY))
    torch.testing.assert_close(expected.gather(1, found.path), found.log_probability)
    paths = torch.arange(6)
    loss = model.loss_of_cells(cells, paths, paths) - model._decoder_loss(cells, paths, paths)
    torch.testing.assert_close(loss, -expected[paths, paths].mean())


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_beam_and_exact_search_agree(temperature: float) -> None:
    model = make_model()
    model.temperature = temperature
    found = model.search(images(5), beam=len(TAXONOMY), top=len(TAXONOMY))
    exact, log_p = model.exact(images(5), top=len(TAXONOMY))
    assert found.path.equal(exact.path)
    torch.testing.assert_close(found.log_probability, exact.log_probability)
    torch.testing.assert_close(found.log_probability.exp().sum(dim=1), torch.ones(5))
    torch.testing.assert_close(log_p[:, 0], torch.zeros(5))


@torch.no_grad()
def test_temperature_applies_to_the_whole_model() -> None:
    model = make_model()
    cells = model.encoder(images(40))
    paths = model.best_path_of_cells(cells).numpy()
    paths[::4] = (paths[::4] + 1) % len(TAXONOMY)
    fitted = fit_temperature(model, [cells[:20], cells[20:]], paths)
    losses = []
    for temperature in (fitted * 0.9, fitted, fitted * 1.1):
        model.temperature = temperature
        found = model.search_cells(cells, beam=len(TAXONOMY), top=len(TAXONOMY))
        rank = (found.path == torch.from_numpy(paths).unsqueeze(1)).int().argmax(dim=1, keepdim=True)
        losses.append(-found.log_probability.gather(1, rank).sum().item())
    assert losses[1] == min(losses)


def test_path_head_is_saved_with_the_model(tmp_path) -> None:
    model = make_model()
    save(model, tmp_path / "model", Preprocessing(16, "L", "squash"), params={}, metrics={})
    loaded, _ = load_categorizer(tmp_path / "model", torch.device("cpu"))
    with torch.no_grad():
        found, again = (each.search(images(4), beam=3) for each in (model, loaded))
    assert found.path.equal(again.path)
    assert found.log_probability.equal(again.log_probability)


def test_scores_of_large_taxonomy_need_no_node_path_matrix() -> None:
    paths = [(f"{a}", f"{a} {b}", f"{a} {b} {c}") for a in range(20) for b in range(25) for c in range(20)]
    taxonomy = Taxonomy(paths)
    scores = torch.from_numpy(np.random.default_rng(1).normal(size=(2, len(paths)))).float()
    edges = PathEdges(taxonomy.trie)(scores)
    torch.testing.assert_close(edges[:, :20].logsumexp(dim=1), scores.logsumexp(dim=1))
