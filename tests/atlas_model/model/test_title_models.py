"""Models that read titles: searches and losses for image, title or both, compared with a slow reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atlas_model.confidence.calibration import fit_title_weights
from atlas_model.data.titles import LabelWords, split_words
from atlas_model.model.categorizer import Categorizer, reads_titles
from atlas_model.model.evidence import LogitWeights, TitleWeights
from atlas_model.taxonomy.tree import END, START
from tests.support.slow_search import log_probabilities, written
from tests.support.title_models import ARCHITECTURE, TAXONOMY, TITLES, WEIGHTS, make


def expected_log_p(model: Categorizer, cells: torch.Tensor | None, titles: list[str] | None, row: int) -> torch.Tensor:
    """Log p of each path by definition: weighted sum of each step's logits, normalised over children."""
    taxonomy = model.taxonomy
    weights = LogitWeights(image=1 / model.temperature)
    if titles is not None and split_words(titles[row]):
        words = LabelWords(taxonomy.names)
        weights = WEIGHTS.named if words.occur_in(titles[row]) else WEIGHTS.other
    of_title = torch.zeros(len(taxonomy))
    if titles is not None:
        of_title = model.title_head(titles)[row] * (weights.alone if cells is None else weights.title)
    log_p = []
    for path in taxonomy.paths:
        total = torch.zeros(())
        for step in range(len(path) + 1):
            below = [each for each in taxonomy.paths if each[:step] == path[:step]]
            names = sorted({each[step] if len(each) > step else "" for each in below})
            if names == [""]:
                break
            branches = [[each for each in below if [*each, *[""] * 9][step] == name] for name in names]
            rows = [[taxonomy.paths.index(each) for each in branch] for branch in branches]
            logits = torch.stack([of_title[paths].logsumexp(0) for paths in rows])
            if cells is not None:
                before = [START, *(taxonomy.tokens.index(name) for name in path[:step])]
                readout, _ = model.decoder(cells[row, None], torch.tensor([before]))
                tokens = [taxonomy.tokens.index(name) if name else END for name in names]
                of_image = model.decoder.logits(readout)[0, -1, tokens]
                if model.path_head is not None:
                    scores = model.path_head.scores(cells[row, None])[0]
                    of_image = of_image + torch.stack([scores[paths].logsumexp(0) for paths in rows])
                said = titles is not None and bool(split_words(titles[row]))
                logits = weights.image * of_image + (logits if said else 0)
            name = path[step] if len(path) > step else ""
            total = total + logits.log_softmax(0)[names.index(name)]
        log_p.append(total)
    return torch.stack(log_p)


@pytest.mark.parametrize("path_head", [False, True])
@pytest.mark.parametrize("given", ["image", "title", "image_and_title"])
@torch.no_grad()
def test_searches_follow_the_definition_for_all_inputs(path_head: bool, given: str) -> None:
    model, images = make(path_head=path_head)
    model.temperature = 1.3
    cells = None if given == "title" else model.encoder(images)
    titles = None if given == "image" else TITLES
    evidence_batches = model.evidence(cells, titles)
    beamed = model.search_cells(evidence_batches, beam=9, top=5)
    exactly, log_p = model.exact_cells(evidence_batches, top=5)
    assert torch.equal(beamed.path, exactly.path)
    torch.testing.assert_close(beamed.log_probability, exactly.log_probability)
    for row in range(6):
        expected = expected_log_p(model, cells, titles, row)
        torch.testing.assert_close(exactly.log_probability[row], expected[exactly.path[row]], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(exactly.log_probability.exp().sum(dim=1), torch.ones(6))
    # A row has the same result alone and in a batch.
    alone = model.evidence(None if cells is None else cells[4:5], None if titles is None else titles[4:5])
    torch.testing.assert_close(model.exact_cells(alone)[1][0], log_p[4], atol=1e-5, rtol=1e-4)
    some = evidence_batches.at(torch.tensor([False, False, True, False, True, False]))
    torch.testing.assert_close(model.exact_cells(some)[1], log_p[[2, 4]], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_titles_change_predictions_and_missing_equals_empty() -> None:
    model, images = make()
    model.temperature = 1.3
    cells = model.encoder(images)
    _, without = model.exact(images)
    _, wordless = model.exact_cells(model.evidence(cells, ["", " ", "-", "\0", "\ud800", "()"]))
    torch.testing.assert_close(wordless, without)
    _, with_titles = model.exact_cells(model.evidence(cells, TITLES))
    changed = (with_titles - without).abs().amax(dim=1) > 1e-3
    assert changed.tolist() == [True, False, True, True, True, True], "the second image has no title"
    _, alone = model.exact_cells(model.evidence(None, TITLES))
    assert not torch.allclose(alone[0], alone[2])


@torch.no_grad()
def test_uncalibrated_logits_are_unweighted() -> None:
    model, images = make(path_head=True)
    model.temperature = 1.3
    cells = model.encoder(images)
    found = [model.exact_cells(model.evidence(cells, titles, calibrated=False))[1] for titles in (None, TITLES)]
    model.temperature, model.title_weights = 1.0, TitleWeights()
    expected = [model.exact_cells(model.evidence(cells, titles))[1] for titles in (None, TITLES)]
    assert all(map(torch.equal, found, expected))


@torch.no_grad()
def test_titles_with_label_words_use_separate_buckets() -> None:
    head = make()[0].title_head
    assert head.words.occur_in("a men thing")
    assert not head.words.occur_in("a blue thing")
    named, other = (head._ids(title) for title in ("men blue", "blue"))
    assert not {*named.tolist()} & {*other.tolist()}
    assert {*other.tolist()} <= {(number + 128) % 256 for number in named.tolist()}


def test_model_without_title_head_refuses_titles() -> None:
    model = Categorizer(replace(ARCHITECTURE, title="none"), TAXONOMY)
    assert not reads_titles(model)
    with pytest.raises(AssertionError, match="reads no titles"):
        model.evidence(torch.zeros(1, 16, 128), ["Blue tee"])


def test_loss_is_the_sum_of_the_losses_of_each_part() -> None:
    model, images = make(path_head=True)
    paths = torch.arange(6) % len(TAXONOMY)
    cells = model.encoder(images).detach()
    sequences, terms = written(TAXONOMY), []
    for row, path in enumerate(paths.tolist()):
        for step, token in enumerate(sequences[path]):
            prefix = sequences[path][:step]
            allowed = sorted({each[step] for each in sequences if each[:step] == prefix and each[step:]})
            found = log_probabilities(model.decoder, cells[row], prefix, allowed, "children")
            if len(allowed) > 1:
                terms.append(-found[token])
    expected = sum(terms) / len(terms)
    for scores in (model.path_head.scores(cells), model.title_head(TITLES)):
        expected += torch.nn.functional.cross_entropy(scores, paths).item()
    assert model.loss_of_cells(cells, paths, paths, TITLES).item() == pytest.approx(expected, rel=1e-4)
    halves = [slice(0, 3), slice(3, 6)]
    parts = sum(model.loss_of_cells(cells[half], paths[half], paths, TITLES[half]) for half in halves)
    assert parts.item() == pytest.approx(expected, rel=1e-4), "the losses of parts add up"


def test_loss_of_each_part_includes_path_priors() -> None:
    priors = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    torch.manual_seed(1)
    model = Categorizer(replace(ARCHITECTURE, path_head=True), TAXONOMY, priors=priors).eval()
    paths = torch.arange(6) % len(TAXONOMY)
    cells = model.encoder(torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8)).detach()
    found = model.loss_of_cells(cells, paths, paths, TITLES) - model._decoder_loss(cells, paths, paths)
    expected = sum(
        torch.nn.functional.cross_entropy(scores + torch.from_numpy(priors).log().float(), paths)
        for scores in (model.path_head.scores(cells), model.title_head(TITLES))
    )
    torch.testing.assert_close(found, expected)


def test_loss_has_gradients_in_all_parts() -> None:
    model, images = make(path_head=True)
    paths = torch.arange(6) % len(TAXONOMY)
    model.loss_of_cells(model.encoder(images), paths, paths, TITLES).backward()
    learning = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    still = {name for name, _ in model.named_parameters()} - learning
    assert still <= {"decoder.score.bias"}, "adds the same value to all cells"


@torch.no_grad()
def test_fitted_weights_maximize_the_likelihood() -> None:
    model, _ = make(path_head=True)
    generator = torch.Generator().manual_seed(3)
    count = 300
    images = torch.randint(0, 256, (count, 1, 16, 16), dtype=torch.uint8, generator=generator)
    cells = model.encoder(images)
    titles = [f"{('Men', 'thing')[number % 2]} number{number}" for number in range(count)]
    model.title_weights = TitleWeights(LogitWeights(0.6, 1.8, 2.0), LogitWeights(1.5, 0.4, 0.5))
    drawn = {}
    for name, given in (("both", cells), ("alone", None)):
        exactly, _ = model.exact_cells(model.evidence(given, titles), top=5)
        choice = torch.multinomial(exactly.log_probability.exp(), 1, generator=generator)
        drawn[name] = exactly.path.gather(1, choice).squeeze(1).numpy()
    found = fit_title_weights(model, cells.split(100), titles, drawn["both"])
    wanted = {"named": [(row, titles[row]) for row in range(0, count, 2)]}
    wanted["other"] = [(row, model.title_head.words.remove_from(title)) for row, title in enumerate(titles)]
    for kind, rows in wanted.items():
        weights = getattr(found, kind)

        def loss(changed: LogitWeights, rows: list[tuple[int, str]] = rows) -> float:
            model.title_weights = TitleWeights(changed, changed)
            indices, said = zip(*rows, strict=True)
            exactly, _ = model.exact_cells(model.evidence(cells[list(indices)], list(said)), top=5)
            right = torch.from_numpy(drawn["both"][list(indices)]).unsqueeze(1)
            return -float(exactly.log_probability[exactly.path == right].sum())

        best = loss(weights)
        for image, title in ((1.2, 1), (0.8, 1), (1, 1.2), (1, 0.8)):
            if weights.image * image < 0.1:
                continue  # the lower bound of the search
            assert best <= loss(replace(weights, image=weights.image * image, title=weights.title * title)) + 0.1
    alone = fit_title_weights(model, cells.split(100), titles, drawn["alone"])
    assert alone.named.alone > 1.2 > alone.other.alone


@torch.no_grad()
def test_few_titles_with_label_words_share_one_weight_set() -> None:
    model, images = make()
    found = fit_title_weights(model, [model.encoder(images)], TITLES, np.zeros(6, dtype=np.int64))
    assert found.named == found.other
