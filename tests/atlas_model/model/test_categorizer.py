"""The sequence model: its two losses, its searches, and the description in a saved model."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atlas_model.core.errors import CheckpointError
from atlas_model.data.images import Preprocessing
from atlas_model.model import decoder as decoder_module
from atlas_model.model.architecture import Architecture
from atlas_model.model.beam_search import Normalize
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.classifier import Classifier
from atlas_model.model.saved_models import load_categorizer, save
from atlas_model.taxonomy.tree import PAD, START, Taxonomy
from tests.support.slow_search import followers, log_probabilities, written

SMALL = Architecture("small", 1, "native", 16, 8, 16, 0.0)
OVER_CHILDREN = replace(SMALL, normalize="children")
# Levels with a single child, an inner end, the same name in two branches, depths 1 to 4.
TAXONOMY = Taxonomy(
    [("Bags",), ("Men",), ("Men", "Tops"), ("Men", "Shoes", "Low"), ("Women", "All", "Shoes", "Low"), ("Hats", "Hats")]
)
PREPROCESSING = Preprocessing(16, "L", "squash")


def make(architecture: Architecture, **keywords) -> tuple[Categorizer, torch.Tensor]:
    torch.manual_seed(1)
    model = Categorizer(architecture, TAXONOMY, **keywords).eval()
    return model, torch.randint(0, 256, (12, 1, 16, 16), dtype=torch.uint8)


@pytest.mark.parametrize(("few_tokens", "smoothing"), [(0, 0.0), (1024, 0.0), (0, 0.2), (1024, 0.2)])
def test_loss_over_children_counts_only_choices(
    few_tokens: int, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_module, "FEW_TOKENS", few_tokens)
    model, images = make(OVER_CHILDREN, label_smoothing=smoothing)
    paths = torch.arange(12) % len(TAXONOMY)
    sequences, choices = written(TAXONOMY), []
    with torch.no_grad():
        cells = model.encoder(images)
    for image, path in enumerate(paths.tolist()):
        tokens = sequences[path]
        for step, token in enumerate(tokens):
            allowed = followers(sequences, tokens[:step])
            log_p = log_probabilities(model.decoder, cells[image], tokens[:step], allowed, "children")
            if len(allowed) > 1:
                even = sum(float(log_p[name]) for name in allowed) / len(allowed)
                choices.append((1 - smoothing) * log_p[token] + smoothing * even)
            else:
                assert log_p[token] == 0
    assert len(choices) == 2 * (1 + 2 + 2 + 2 + 1 + 1)
    assert model.loss(images, paths).item() == pytest.approx(-sum(choices) / len(choices), rel=1e-5)


def test_label_smoothing_spreads_over_all_tokens_or_paths() -> None:
    paths = torch.arange(12) % len(TAXONOMY)
    for build in (Categorizer, Classifier):
        torch.manual_seed(1)
        model = build(SMALL, TAXONOMY).eval()
        images = torch.randint(0, 256, (12, 1, 16, 16), dtype=torch.uint8)
        with torch.no_grad():
            sharp = model.loss(images, paths)
            model.label_smoothing = 1.0
            if isinstance(model, Categorizer):
                targets = model.targets[paths]
                before = torch.cat([torch.full_like(targets[:, :1], START), targets[:, :-1]], dim=1)
                logits = model.decoder.logits(model.decoder(model.encoder(images), before)[0])[targets != PAD]
            else:
                logits = model(images)
            even = -logits.log_softmax(dim=-1).mean()
            torch.testing.assert_close(model.loss(images, paths), even)
            model.label_smoothing = 0.25
            torch.testing.assert_close(model.loss(images, paths), 0.75 * sharp + 0.25 * even)


def test_loss_over_children_is_negative_exact_log_probability() -> None:
    model, images = make(OVER_CHILDREN)
    _, log_p = model.exact(images)
    for index, route in enumerate(TAXONOMY.trie.routes):
        forced = model.loss(images, torch.full((12,), index)).item()
        choices = sum(len(followers(written(TAXONOMY), written(TAXONOMY)[index][:step])) > 1 for step in range(4))
        assert -log_p[:, route.max()].mean().item() == pytest.approx(forced * choices, rel=1e-4)


def test_loss_is_zero_for_a_taxonomy_of_one_path() -> None:
    model = Categorizer(OVER_CHILDREN, Taxonomy([("A", "B")]), alpha_c=0.0)
    loss = model.loss(torch.zeros(2, 1, 16, 16, dtype=torch.uint8), torch.zeros(2, dtype=torch.long))
    assert loss.item() == 0
    loss.backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("normalize", ["vocabulary", "children"])
def test_attention_term_counts_the_steps_of_the_path(normalize: Normalize) -> None:
    architecture = replace(SMALL, normalize=normalize)
    plain, images = make(architecture)
    paths = torch.arange(12) % len(TAXONOMY)
    depths = torch.tensor([len(tokens) for tokens in written(TAXONOMY)])
    if normalize == "vocabulary":
        depths = torch.tensor([len(path) + 1 for path in TAXONOMY.paths])  # each path's END is written
    for target, alpha_target in ((depths[paths] / 16, "share"), (torch.ones(12), "one")):
        model, _ = make(architecture, alpha_c=1e4, alpha_target=alpha_target)
        with torch.no_grad():
            cells = model.encoder(images)
            terms = []
            for image, path in enumerate(paths.tolist()):
                tokens = torch.cat([torch.tensor([1]), model.targets[path]])[: depths[path]]
                _, attention = model.decoder(cells[image, None], tokens[None])
                terms.append((target[image] - attention[0].sum(0)).square().mean())
        more = model.loss(images, paths) - plain.loss(images, paths)
        assert more.item() == pytest.approx(1e4 * float(torch.stack(terms).mean()), rel=1e-3)


@pytest.mark.parametrize("architecture", [SMALL, OVER_CHILDREN])
def test_wide_beam_equals_exact_search(architecture: Architecture) -> None:
    model, images = make(architecture)
    found, log_p = model.exact(images, top=len(TAXONOMY))
    beamed = model.search(images, beam=20, top=len(TAXONOMY))
    assert torch.equal(found.path, beamed.path)
    torch.testing.assert_close(found.attention, beamed.attention)
    assert torch.equal(model.best_path(images), model.search(images, beam=1).path[:, 0])
    assert log_p.shape == (12, len(TAXONOMY.trie.path))
    total = found.log_probability.exp().sum(1)
    assert torch.allclose(total, torch.ones(12)) == (architecture.normalize == "children")


def test_trains_with_loss_over_children() -> None:
    torch.manual_seed(1)
    taxonomy = Taxonomy([("Bright", "Left"), ("Bright", "Right"), ("Dark",)])
    model = Categorizer(OVER_CHILDREN, taxonomy, alpha_c=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    paths = torch.arange(48) % 3
    images = torch.randint(0, 40, (48, 1, 16, 16))
    images[paths < 2] += 120
    for path, half in ((0, slice(0, 8)), (1, slice(8, 16))):
        images[paths == path, :, :, half] += 80
    images = images.to(torch.uint8)
    for _ in range(15):
        optimizer.zero_grad()
        model.loss(images, paths).backward()
        optimizer.step()
    assert torch.equal(model.eval().best_path(images), paths)


def test_saved_model_records_its_normalization(tmp_path: Path) -> None:
    for architecture in (SMALL, OVER_CHILDREN):
        model, images = make(architecture)
        save(model, tmp_path / "model", PREPROCESSING, params={}, metrics={})
        loaded, _ = load_categorizer(tmp_path / "model", torch.device("cpu"))
        assert loaded.architecture == architecture
        assert torch.equal(loaded.search(images, beam=3).log_probability, model.search(images, beam=3).log_probability)
    description = tmp_path / "model" / "model.json"
    content = json.loads(description.read_text())
    content["format"] = 1
    del content["architecture"]["normalize"]
    description.write_text(json.dumps(content))
    loaded, _ = load_categorizer(tmp_path / "model", torch.device("cpu"))
    assert loaded.architecture.normalize == "vocabulary", "the default for saved models without this field"
    content["architecture"]["normalize"] = "siblings"
    description.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="siblings"):
        load_categorizer(tmp_path / "model", torch.device("cpu"))


def test_results_do_not_depend_on_the_batch() -> None:
    model, images = make(OVER_CHILDREN)
    together, log_p = model.exact(images, top=3)
    for index, image in itertools.islice(enumerate(images.split(1)), 3):
        alone, alone_log_p = model.exact(image, top=3)
        assert torch.equal(alone.path[0], together.path[index])
        torch.testing.assert_close(alone_log_p[0], log_p[index], atol=1e-5, rtol=1e-4)
