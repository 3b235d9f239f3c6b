"""What a study says about the paper's claims, and how noisy its evaluators are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from mlssl.analysis.aggregate import origin
from mlssl.analysis.outputs import NONE, budget
from mlssl.claims.evaluate import NOT_IN_STUDY, Outcome, Row, evaluate, levels_of, read_groups
from mlssl.claims.margins import MARGIN
from mlssl.claims.noise import REPEATS, Noise, noise
from mlssl.claims.paper import Claim
from mlssl.datasets.counts import SPLITS
from mlssl.statistics.paired import Difference, Share
from mlssl.study.settings import Pretrain
from mlssl.study.study import Study
from mlssl.study.validation import build

PAPER_IMAGES = SPLITS["coco2017"]["train2017"]
PAPER: Pretrain = build(Pretrain, {"data": {"root": "-"}, "method": "-"}, "the paper")
"""The defaults of settings are the paper's values."""
RULES = "docs/statistics.md has the rules"


def claims_table(
    study: Study, metrics: pd.DataFrame, published: pd.DataFrame
) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """Caption, one row per claim, evaluator and comparison, and one row per claim and evaluator for reading.

    `published` has the paper's numbers, all as text.
    """
    found = evaluate(study, metrics, read_groups(study))
    views = image_views(study, metrics)
    tidy = [line for row in found for line in lines(study, row, published, views)]
    printed = [printed_row(study, row, published, views) for row in found]
    return caption(study, metrics, found), pd.DataFrame(tidy, dtype=object), pd.DataFrame(printed, dtype=object)


def lines(study: Study, row: Row, published: pd.DataFrame, views: dict[str, float]) -> list[dict[str, object]]:
    """The tidy rows of a claim by one evaluator, one per comparison; a single one if there is none."""
    about: dict[str, object] = {
        "claim": row.claim.number,
        "sentence": row.claim.sentence,
        "test": row.claim.test,
        "paper": paper_numbers(row.claim, published),
        "image_views_of_paper": portion(study, row.claim, views),
        "protocol": row.score and row.score.protocol,
        "metric": row.score and row.score.metric,
        "decides": row.primary,
        "verdict": row.verdict,
        "because": row.because or None,
        "p_supported": number(row.evidence.above) if row.outcomes else None,
        "p_contradicted": number(row.evidence.below) if row.outcomes else None,
        "p_no_difference": number(row.evidence.within) if row.outcomes else None,
        "missing": row.missing or None,
    }
    empty = Outcome("", math.nan)
    return [
        about
        | {
            "comparison": outcome.label or None,
            **numbers(outcome.found),
            "delta": number(outcome.margin),
            **shares(outcome.share),
            "note": outcome.note or None,
        }
        for outcome in row.outcomes or (empty,)
    ]


def shares(share: Share | None) -> dict[str, object]:
    """The columns of a share of the way from untrained to supervised weights; NA where it is not known."""
    share = share or Share()
    return {
        "share_of_the_way": number(share.mean),
        "share_low": number(share.low),
        "share_high": number(share.high),
        "share_n": share.n,
    }


def numbers(found: Difference | None) -> dict[str, object]:
    """The columns of a difference; NA where it is not known."""
    if found is None:
        found = Difference(math.nan, 0, math.nan)
    low, high = found.interval()
    tested = found.n > 1
    return {
        "n": found.n,
        "difference": number(found.mean),
        "low": number(low),
        "high": number(high),
        "p_above": number(found.p_above()) if tested else None,
        "p_below": number(found.p_below()) if tested else None,
        "sd_seeds": number(math.sqrt(found.seeds * found.n)),
        "sd_images": number(math.sqrt(found.image_variance)) if found.images else None,
        "df": number(found.scales[-1][1]) if tested else None,
        "detectable": number(found.detectable()) if tested else None,
    }


def number(value: float) -> float | None:
    """Rounded for a file; None for NaN."""
    return None if math.isnan(value) else round(value, 6)


def printed_row(study: Study, row: Row, published: pd.DataFrame, views: dict[str, float]) -> dict[str, str]:
    """A claim by one evaluator, formatted for reading."""
    verdict = row.verdict + (f" ({row.because})" if row.because else "")
    if row.missing:
        verdict += f" (needs {row.missing})"
    return {
        "claim": f"{row.claim.number}. {row.claim.sentence}" if row.primary else f"{row.claim.number}.",
        "paper": paper_numbers(row.claim, published) if row.primary else "",
        "image views": portion(study, row.claim, views) if row.primary else "",
        "evaluator": f"{row.score.title}, {row.score.unit}" if row.score else NONE,
        "difference [95 % interval]": differences(row.outcomes),
        "verdict": verdict,
    }


def differences(outcomes: Sequence[Outcome]) -> str:
    """`mls − moco_v2: +1.20 [0.31, 2.09] (n = 5)`; what is true of all comparisons is said once, at the end."""
    sizes = {size(o) for o in outcomes if o.found is not None}
    parts = []
    for outcome in outcomes:
        words = [outcome.label + ":"]
        if outcome.found is not None:
            low, high = outcome.found.interval()
            interval = "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"
            words.append(f"{outcome.found.mean:+.2f}{interval}" + (f" ({size(outcome)})" if len(sizes) > 1 else ""))
        if outcome.note:
            words.append(outcome.note if outcome.found is None else f"({outcome.note})")
        parts.append(" ".join(words))
    return "; ".join(parts) + (f" ({sizes.pop()})" if len(sizes) == 1 else "") or NONE


def size(outcome: Outcome) -> str:
    """Number of seeds, and whether the interval takes the evaluation images as they are."""
    assert outcome.found is not None
    n = f"n = {outcome.found.n}"
    return n if outcome.found.images or outcome.found.n == 1 else f"{n}, images fixed"


def paper_numbers(claim: Claim, published: pd.DataFrame) -> str:
    """The paper's numbers for a claim, from its tables."""
    if isinstance(claim.paper, str):
        return claim.paper
    known = published.set_index(["table", "pretrain_epochs", "method", "metric"])["value"].to_dict()
    parts = []
    for n in claim.paper:
        values = [known[n.table, n.epochs, method, n.metric] for method in n.methods]
        parts.append(f"{n.metric} {', '.join(values)}")
    first = claim.paper[0]
    where = f"{first.table.replace('table', 'table ')}, {first.epochs} epochs"
    return f"{'; '.join(parts)} ({', '.join(first.methods)}; {where})"


def image_views(study: Study, metrics: pd.DataFrame) -> dict[str, float]:
    """Run -> images that its pretraining has seen."""
    seen = metrics[(metrics["protocol"] == "pretrain") & (metrics["metric"] == "images_seen")]
    return dict(zip(seen["run"], seen["value"], strict=True))


def portion(study: Study, claim: Claim, views: dict[str, float]) -> str:
    """The longest pretraining that a claim rests on, in images seen, beside the paper's: `1/2,679`."""
    axes = study.axes()
    tree = claim.tree(axes)
    places = {level.place(axes) for level in levels_of(tree)} if tree else set()
    seen = [views.get(c.run, 0.0) for c in study.cells if (c.axis, c.level) in places]
    paper = (
        float(PAPER_IMAGES * int(claim.paper[0].epochs)) if isinstance(claim.paper, tuple) else PAPER_IMAGES * 400
    )
    longest = max(seen, default=0.0)
    if not longest:
        return NONE
    return f"1/{paper / longest:,.0f}" if longest < paper / 1.5 else f"{longest / paper:.2g}"


def caption(study: Study, metrics: pd.DataFrame, found: list[Row]) -> str:
    """What the rows contain, the margin of each score, and how far the budget is from the paper's."""
    used = dict.fromkeys(row.score.metric for row in found if row.score)
    margins = ", ".join(f"{metric} {MARGIN[metric]:g}" for metric in used) or "none measured"
    about = " ".join(study.about.split()).rstrip(".")
    where = origin(metrics)
    absent = sum(row.verdict == NOT_IN_STUDY and row.primary for row in found)
    return (
        f"The paper's claims in this study. {about}. Pretraining: {budget(study)}; the paper: {PAPER.backbone} "
        f"backbone, {PAPER.views.crop} px crops, 400 or 800 epochs of {PAPER_IMAGES:,} images. "
        "Image views: images seen in pretraining, as a share of the paper's. Differences are paired by seed, in "
        "percentage points, with 95 % intervals over seeds and evaluation images; where no groups of images are "
        "known, `images fixed`. The evaluator in the first row of a claim decides it: the first in an "
        f"order fixed before there were results that is not below resolution. δ: {margins}. "
        f"{absent} of {len({row.claim.number for row in found})} claims are not in this study. {RULES}. "
        f"{where[0].upper()}{where[1:]}."
    )


def statistics_caption(study: Study, metrics: pd.DataFrame, title: str, cells: str) -> str:
    """Caption of a table of statistics: title, data, budget, what the cells are, rules and origin."""
    about, where = " ".join(study.about.split()).rstrip("."), origin(metrics)
    return f"{title}. {about}. Pretraining: {budget(study)}. {cells} {RULES}. {where[0].upper()}{where[1:]}."


def noise_table(study: Study, metrics: pd.DataFrame) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """Caption, and one row per evaluator: once for a program, once for reading."""
    path = study.out / REPEATS
    repeats = pd.read_csv(path, sep="\t", keep_default_na=False, na_values=["NA"]) if path.exists() else None
    found = noise(study, metrics, read_groups(study), repeats)
    text = statistics_caption(
        study,
        metrics,
        "Noise of the evaluators",
        "Standard deviations in percentage points, pooled over the trained levels of n seeds: of one level over "
        "seeds; of the difference of two levels over seeds, paired; of this difference over evaluation images; "
        "of a run that is made again. Detectable: the "
        "smallest true difference that a study of n seeds finds with 80 % power.",
    )
    tidy = pd.DataFrame([noise_row(n) for n in found], dtype=object)
    printed = pd.DataFrame([printed_noise(n) for n in found], dtype=object)
    return text, tidy, printed


def noise_row(n: Noise) -> dict[str, object]:
    """Machine-readable; NA where it is not known."""
    return {
        "protocol": n.score.protocol,
        "metric": n.score.metric,
        "levels": n.levels,
        "n": n.n,
        "sd_seeds": number(n.sd_seeds),
        "sd_paired": number(n.sd_paired),
        "sd_images": number(n.sd_images),
        "sd_repeat": number(n.sd_repeat),
        "detectable": number(n.detectable),
        "delta": MARGIN[n.score.metric],
    }


def printed_noise(n: Noise) -> dict[str, str]:
    """Formatted for reading."""

    def show(value: float) -> str:
        return NONE if math.isnan(value) else f"{value:.2f}"

    return {
        "evaluator": f"{n.score.title}, {n.score.unit}",
        "levels": str(n.levels),
        "n": str(n.n),
        "over seeds": show(n.sd_seeds),
        "paired difference": show(n.sd_paired),
        "over images": show(n.sd_images),
        "made again": show(n.sd_repeat),
        "detectable": show(n.detectable),
        "δ": f"{MARGIN[n.score.metric]:g}",
    }
