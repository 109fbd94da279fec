"""What decisions do to labels and images, and that each one is counted."""

from atlas_model.data.decisions import verdicts
from atlas_model.split.assign import ImageScore, SplitProduct
from atlas_model.split.reviews import CATEGORY_EFFECTS, ZOOM_EFFECTS, reviewed_labels, reviewed_scores
from atlas_model.taxonomy.tree import Taxonomy
from tests.support.reviews import category, zoom

TAXONOMY = Taxonomy([("A", "B"), ("A", "C")])


def test_each_decision_on_a_category_has_its_effect_or_its_reason() -> None:
    products = {name: SplitProduct(name, ("A", "B")) for name in ("p1", "p2", "p3", "p4", "p5", "p6", "untouched")}
    records = [
        category("p1", "A > C"),
        category("p2", "A > B"),
        category("p3", None, answer="none"),
        category("p4", None, answer="unsure"),
        category("p5", "A > C"),
        category("p5", "A > B", "bob"),
        category("p6", "A > Gone"),
        category("gone", "A > C"),
    ]
    found, counts = reviewed_labels(products, verdicts(records, "category"), TAXONOMY)
    assert counts == dict.fromkeys(CATEGORY_EFFECTS, 1)
    assert found["p1"].category == ("A", "C") and found["p3"].category == ()
    assert all(found[name] == products[name] for name in ("p2", "p4", "p5", "p6", "untouched"))
    found, counts = reviewed_labels(products, verdicts(records, "category"), None)
    assert found["p6"].category == ("A", "Gone") and counts["changed"] == 2


def test_each_decision_on_a_close_up_has_its_effect_or_its_reason() -> None:
    kept, discarded = ImageScore(True, "normal", 1), ImageScore(False, "zoomed", 2)
    scores = {
        "i1": discarded,
        "i2": kept,
        "i3": kept,
        "i4": kept,
        "i5": kept,
        "i6": ImageScore(False, "unreadable", None),
    }
    records = [
        zoom("i1", "normal"),
        zoom("i2", "zoomed"),
        zoom("i3", "normal"),
        zoom("i4", "unsure"),
        zoom("i5", "zoomed"),
        zoom("i5", "normal", "bob"),
        zoom("i6", "normal"),
        zoom("gone", "normal"),
    ]
    found, counts = reviewed_scores(scores, verdicts(records, "zoom"))
    assert counts == dict.fromkeys(ZOOM_EFFECTS, 1)
    assert found == scores | {"i1": ImageScore(True, "normal", 2), "i2": ImageScore(False, "zoomed", 1)}


def test_decisions_follow_changes_of_the_taxonomy() -> None:
    products = {name: SplitProduct(name, ("A", "B"), fault="category_split") for name in ("p1", "p2", "p3")}
    records = [category("p1", "Old > C"), category("p2", "Old > D"), category("p3", "Old > E")]
    changes: dict[tuple[str, ...], tuple[tuple[str, ...], ...]] = {
        ("Old", "C"): (("A", "C"),),
        ("Old", "D"): (("A", "B"), ("A", "C")),
        ("Old", "E"): (),
    }
    found, counts = reviewed_labels(products, verdicts(records, "category"), TAXONOMY, changes.__getitem__)
    assert counts == {"changed": 1, "unknown_category": 2}
    assert found["p1"] == SplitProduct("p1", ("A", "C")), "someone has decided"
    assert found["p2"].fault == "category_split"
