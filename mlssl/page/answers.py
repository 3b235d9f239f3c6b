"""The answers of a study in sentences: gain, certainty, labels saved, claims, axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from mlssl.analysis.names import in_words, plain
from mlssl.analysis.outputs import has_gains, has_label_savings, pretrained_and_untrained
from mlssl.claims.evaluate import NO_RESULT, Row, Samples, by_verdict
from mlssl.claims.findings import Finding
from mlssl.claims.gains import Gain, deciding
from mlssl.claims.noise import Noise
from mlssl.page.parts import Answer, Fact, Question, tone
from mlssl.statistics.verdict import CONTRADICTED
from mlssl.study.study import COMPARE, Study
from mlssl.tables.gains import ends, share_text
from mlssl.tables.label_savings import decide, savings, sentence


def gain_question(study: Study, found: Sequence[Gain]) -> Question:
    """What each method that trains without labels gains over untrained weights, by one evaluator."""
    pretrained, untrained = pretrained_and_untrained(study)
    title = "What you gain" if study.own_photos else "What pretraining gains"
    if not study.transfer_source.labelled:
        return Question(title, (), "Not measured: there are no labels, so no evaluator has run. Label some images.")
    if not has_gains(study):
        return Question(title, (), "Not measured: the study does not compare trained with untrained weights.")
    own = [gain for gain in found if gain.method in pretrained]
    if not own:
        return Question(title, (), "Not measured: every evaluator is below resolution (docs/statistics.md).")
    score, answers = deciding(own), []
    for gain in (gain for gain in own if gain.score == score):
        word = f"{gain.word} (a loss)" if gain.word == CONTRADICTED else gain.word
        answers.append(Answer(in_words(gain.method), gain_text(gain), word, tone(word)))
    unit = f"points of {score.title}, over untrained weights"
    note = (
        f"Gains over untrained weights ({untrained}) are paired by seed, with the 95 % interval and the number of "
        "seeds. The words say whether a gain is supported."
    )
    return Question(title, tuple(answers), note, unit)


def gain_text(gain: Gain) -> str:
    """`+2.58 [0.32, 4.84], n = 3; 41 % [30, 52] of the gain with labels`."""
    if gain.found is None:
        return ""
    text = f"{gain.found.mean:+.2f}{ends(*gain.found.interval())}, n = {gain.found.n}"
    if gain.share_percent is None or gain.found.n < 2:
        return text
    return f"{text}; {share_text(gain.share_percent, gain.found.n)} of the gain with labels"


def certainty(
    study: Study, found: Sequence[Noise], metrics: pd.DataFrame, found_gains: Sequence[Gain]
) -> tuple[Fact, ...]:
    """How sure the answer is: seeds, evaluation images, and the smallest difference that the study can find."""
    pretrained, _ = pretrained_and_untrained(study)
    own = [gain for gain in found_gains if gain.method in pretrained]
    used = deciding(own) if own else None
    facts = [Fact("seeds", str(len(study.seeds)) + ("" if len(study.seeds) > 1 else ": no interval, no verdict"))]
    for one in [n for n in found if n.score == used] or found[:1]:
        rows = metrics[(metrics["protocol"] == one.score.protocol) & (metrics["metric"] == one.score.metric)]
        images = sorted({f"{n:,.0f}" for n in rows["n"].dropna()})
        if images:
            facts.append(Fact("evaluated on", f"{' or '.join(images)} images or crops"))
        text = "not known yet" if math.isnan(one.detectable) else f"{one.detectable:.1f} points or more"
        facts.append(Fact("can tell methods apart by", text))
    return tuple(facts)


def axis_question(found: Sequence[Finding]) -> Question:
    """Which choices matter: one sentence per axis that has a result, and one for all others."""
    answers = [Answer(in_words(f.axis), plain(f.pair_text), f.word, tone(f.word)) for f in found if f.pair]
    if rest := [in_words(f.axis) for f in found if not f.pair]:
        answers.append(Answer("; ".join(rest), "", NO_RESULT, tone(NO_RESULT)))
    note = "Of each choice, the two levels that differ most clearly, or most."
    return Question("Which choices matter", tuple(answers), note)


def claim_question(rows: Sequence[Row]) -> Question:
    """The paper's claims by verdict, each by the evaluator that decides it."""
    found = by_verdict(rows)
    total = sum(map(len, found.values()))
    answers = tuple(
        Answer(
            f"{len(numbers)} of {total}",
            f"claim{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}",
            word,
            tone(word),
        )
        for word, numbers in found.items()
    )
    return Question("What the study says about the paper's claims", answers)


def label_question(study: Study, metrics: pd.DataFrame, groups: pd.DataFrame | None) -> list[Question]:
    """How many labels each method saves; empty if the study cannot compute it."""
    if not has_label_savings(study):
        return []
    answers = []
    for method, by_seed in savings(study, metrics, groups).items():
        found = list(by_seed.values())
        word = decide(found)[0] if found else NO_RESULT
        text = sentence(method, found).removeprefix(f"{method}: ").removeprefix(f"labels saved: {word}. ")
        answers.append(Answer(in_words(method), text, word, tone(word)))
    return [Question("How many labels pretraining saves", tuple(answers))]


def axes_of(samples: Samples) -> list[str]:
    """The axes of the study with two choices or more, the comparison of methods first.

    A single method beside untrained weights is no choice: its gain is the answer to another question.
    """
    found = [axis for axis, levels in samples.axes.items() if len(levels) > 1]
    alone = samples.floor is not None and len(samples.axes.get(COMPARE, ())) == 2
    return sorted((axis for axis in found if axis != COMPARE or not alone), key=lambda axis: axis != COMPARE)
