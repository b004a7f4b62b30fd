"""What a failed step prints of what it asked."""

from __future__ import annotations

from e2e.kube import Evidence


def test_of_what_is_asked_again_and_again_the_first_and_the_last_answer_stay() -> None:
    evidence = Evidence()
    for words in ("up -> 0", "cost -> 1", "cost -> 2", "cost -> 3", "up -> 1", "cost -> 4"):
        evidence.add(words)
    said = [line.split(" s  ")[1] for line in evidence.text().splitlines()]
    assert said == ["up -> 0", "cost -> 1", "cost -> 3", "up -> 1", "cost -> 4"]
