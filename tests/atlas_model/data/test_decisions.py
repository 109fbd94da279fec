"""Which decisions count."""

from atlas_model.data.decisions import NO_CATEGORY, standing_decisions, suggestions, verdicts
from atlas_model.data.reviews import SERVICE, Decision, Undo
from tests.support.reviews import category, undo, zoom


def test_the_last_decision_of_a_reviewer_counts() -> None:
    records = [category("p", "A"), category("q", "A"), category("p", "B")]
    found = verdicts(records, "category")
    assert {subject: verdict.answer for subject, verdict in found.items()} == {"p": ("B",), "q": ("A",)}
    assert not found["p"].disagree


def test_an_undone_decision_counts_as_never_made() -> None:
    first, second = category("p", "A"), category("p", "B")
    assert verdicts([first, second, undo(second)], "category")["p"].answer == ("A",)
    assert verdicts([first, undo(first)], "category") == {}
    assert standing_decisions([first, second, undo(second)]) == [first]


def test_without_a_majority_nothing_counts() -> None:
    records = [category("p", "A", "anna"), category("p", "B", "bob")]
    found = verdicts(records, "category")["p"]
    assert found.answer is None and found.disagree
    assert [vote.reviewer for vote in found.votes] == ["anna", "bob"]
    found = verdicts([*records, category("p", "B", "cem")], "category")["p"]
    assert found.answer == ("B",) and found.disagree
    found = verdicts([*records, category("p", None, "cem", answer="unsure")], "category")["p"]
    assert found.answer is None and found.unsure == 1
    assert verdicts([*records, category("p", "B", "anna")], "category")["p"].answer == ("B",)


def test_not_sure_is_no_vote_and_no_category_is_one() -> None:
    unsure = category("p", None, answer="unsure")
    assert verdicts([unsure], "category")["p"].answer is None
    assert verdicts([unsure, category("p", None, "bob", answer="none")], "category")["p"].answer == NO_CATEGORY


def test_kinds_are_apart() -> None:
    records: list[Decision | Undo] = [category("same", "A"), zoom("same", "zoomed")]
    assert verdicts(records, "zoom")["same"].answer == "zoomed"
    assert verdicts(records, "category")["same"].answer == ("A",)


def test_feedback_is_a_suggestion_and_no_vote() -> None:
    feedback = category("p", "A", order=SERVICE)
    unsure = category("q", None, answer="unsure", order=SERVICE)
    assert verdicts([feedback, unsure], "category") == {} and suggestions([feedback, unsure]) == [feedback, unsure]
    decided = category("p", "B")
    assert verdicts([feedback, decided], "category")["p"].answer == ("B",)
    assert suggestions([feedback, undo(feedback), decided]) == []
