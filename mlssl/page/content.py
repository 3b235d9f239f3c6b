"""Gather the results page of a study from metrics.tsv, its claims, its figures, and the headers of its results."""

from __future__ import annotations

import pandas as pd

from mlssl.analysis.aggregate import read_metrics
from mlssl.analysis.names import in_words, plain
from mlssl.analysis.outputs import (
    CLAIMS,
    GAIN_COST,
    GAINS,
    HISTOGRAMS,
    budget,
    figure_names,
    has_claims,
    has_gains,
    stem,
)
from mlssl.claims.differences import differences
from mlssl.claims.evaluate import Row, Samples, evaluate, read_groups
from mlssl.claims.findings import finding
from mlssl.claims.gains import gains
from mlssl.claims.noise import noise
from mlssl.claims.resolution import below_resolution
from mlssl.page import answers, cost, provenance
from mlssl.page.comparison import difference_table, score_table
from mlssl.page.images import picture
from mlssl.page.parts import Ablation, Cell, Page, Picture, Table, words
from mlssl.project import PUBLISHED
from mlssl.study.progress import Progress
from mlssl.study.study import COMPARE, Study
from mlssl.tables.claims import image_views, printed_row
from mlssl.tables.write import read_paper

TRAINING = {
    "training_curves": (
        "Training loss",
        "Curves of the loss of every method over training.",
        "InfoNCE starts near log(D + 1), D being the size of the dictionary, and falls. A multi-label loss may "
        "rise while pseudo-labels spread. Losses of different methods are not comparable.",
    ),
    "label_force": (
        "Gradient of pseudo-labels",
        "Curves of the gradient of pseudo-labels over training.",
        "How strongly pseudo-labels pull at the query embedding, as a share of InfoNCE's gradient.",
    ),
    "label_quality": (
        "Quality of pseudo-labels",
        "Share of pseudo-labels that are right, in the first and the last quarter of training.",
        "Right: a pseudo-label that shares a category with its query. Compare with the share of random entries.",
    ),
}
"""File stem -> title, text alternative, how to read it."""


def gather(study: Study) -> Page:
    """The content of the page. Raises ConfigError without metrics.tsv."""
    metrics, groups = read_metrics(study), read_groups(study)
    headers = [result.header for result in Progress(study).results.values()]
    samples = Samples(study, metrics, groups)
    unresolved = below_resolution(study, metrics)
    claims = evaluate(study, metrics, groups) if has_claims(study) else []
    found_gains, found_differences = gains(samples), differences(samples)
    findings = {axis: finding(samples, axis) for axis in answers.axes_of(samples)}
    return Page(
        name=study.name,
        about=study.about,
        budget=budget(study),
        state=provenance.state(metrics),
        absent=provenance.absent(metrics),
        gain=answers.gain_question(study, found_gains),
        cost=cost.total(study, metrics),
        sure=answers.certainty(study, noise(study, metrics, groups), metrics, found_gains),
        questions=(
            *([answers.axis_question(list(findings.values()))] if findings else []),
            *answers.label_question(study, metrics, groups),
            *([answers.claim_question(claims)] if claims else []),
        ),
        main_figure=main_figure(study),
        main_table=score_table(study, samples, COMPARE, unresolved),
        main_differences=difference_table(found_differences, COMPARE),
        claims_figure=picture(
            study,
            CLAIMS,
            "Differences behind the claims, with 95 % intervals",
            "Forest plot of every comparison of every claim; the table below has the numbers.",
        )
        if claims
        else None,
        claims=claim_table(study, metrics, claims) if claims else None,
        ablations=tuple(
            Ablation(
                axis,
                in_words(axis),
                plain(findings[axis].text) if axis in findings else "one level alone",
                axis in findings and findings[axis].pair is not None,
                picture(
                    study,
                    stem(axis),
                    in_words(axis),
                    f"Scores over {in_words(axis)}; the table beside it has the numbers.",
                ),
                score_table(study, samples, axis, unresolved),
                difference_table(found_differences, axis),
            )
            for axis in study.axes()
            if axis != COMPARE
        ),
        embeddings=embeddings(study),
        training=tuple(picture(study, n, *TRAINING[n]) for n in figure_names(study) if n in TRAINING),
        data_picture=picture(
            study,
            "contact_sheet",
            "Labelled samples of the training images",
            "Sheet of training images with outlined and named objects.",
            photographs=True,
        )
        if study.source.labelled
        else None,
        data=provenance.data_facts(study, metrics),
        costs=cost.cost_table(study, metrics),
        step_costs=cost.step_costs(study),
        gain_cost=picture(
            study,
            GAIN_COST,
            "Gain over untrained weights, against the time of a training step",
            "One point per method: its gain over the relative time of its step; the tables have the numbers.",
        )
        if GAIN_COST in figure_names(study)
        else None,
        provenance=provenance.provenance(study, metrics, headers),
        runs=provenance.runs_table(study, metrics),
        downloads=provenance.downloads(study),
    )


def main_figure(study: Study) -> Picture:
    """Gains over untrained weights; the scores of all methods where the study has no untrained weights."""
    if has_gains(study):
        alt = "Difference of every method to untrained weights by every evaluator, with intervals."
        return picture(study, GAINS, "Gain over untrained weights, paired by seed, with 95 % intervals", alt)
    alt = "Every score of every method, over seeds; the table below has the numbers."
    return picture(study, stem(COMPARE), "Scores of all methods", alt)


def claim_table(study: Study, metrics: pd.DataFrame, claims: list[Row]) -> Table:
    """The claims by every evaluator, as in tables/claims.md; `state` marks the evaluators that do not decide."""
    published, views = read_paper(PUBLISHED), image_views(study, metrics)
    printed = [printed_row(study, row, published, views) for row in claims]
    rows = tuple(
        words(list(line.values())) if row.primary else tuple(Cell(text, state="aside") for text in line.values())
        for row, line in zip(claims, printed, strict=True)
    )
    caption = "The first row of a claim has the evaluator that decides it. docs/statistics.md has the rules."
    return Table(caption, tuple(printed[0]), rows)


def embeddings(study: Study) -> tuple[Picture, ...]:
    """Neighbour sheets of all methods that the study draws, then one sheet of their score histograms."""
    found = []
    for method in study.pictured:
        title = f"{in_words(method)}: nearest crops of query crops"
        alt = f"Query crops with their nearest dictionary entries by {in_words(method)}."
        found.append(picture(study, f"neighbours_{method}", title, alt, photographs=True))
    if study.pictured:
        title = "Scores of one query against the dictionary, before and after training"
        alt = "Histograms of cosines of a query and dictionary entries, all methods on common axes."
        found.append(picture(study, HISTOGRAMS, title, alt))
    return tuple(found)
