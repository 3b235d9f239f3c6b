"""Metrics against slow loops written from their definitions."""

import numpy as np
import pytest
import torch

from mlssl.transfer.metrics import (
    average_precision,
    confusion_matrix,
    mean_average_precision,
    segmentation_scores,
)


def slow_average_precision(scores: list[float], targets: list[bool]) -> float:
    """One threshold per distinct score, from the highest: sum of recall gained times precision there."""
    area, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [t for s, t in zip(scores, targets, strict=True) if s >= threshold]
        recall = sum(chosen) / sum(targets)
        area += (recall - recall_before) * sum(chosen) / len(chosen)
        recall_before = recall
    return 100 * area


@pytest.mark.parametrize("levels", [1, 3, 10, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_average_precision_equals_its_definition_with_and_without_ties(levels, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, 60) / levels
    targets = rng.random(60) < 0.3
    found = average_precision(torch.tensor(scores), torch.tensor(targets))
    assert found == pytest.approx(slow_average_precision(scores.tolist(), targets.tolist()), abs=1e-9)


def test_average_precision_of_known_cases():
    targets = torch.tensor([True, False, True, False])
    assert average_precision(torch.tensor([4.0, 1.0, 3.0, 2.0]), targets) == pytest.approx(100)
    assert average_precision(torch.tensor([1.0, 4.0, 2.0, 3.0]), targets) == pytest.approx(
        100 * (1 / 3 + 2 / 4) / 2
    )
    assert average_precision(torch.zeros(4), targets) == pytest.approx(50)


def test_order_of_tied_examples_does_not_matter():
    scores, targets = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([True, False, False, True])
    assert average_precision(scores, targets) == average_precision(scores.flip(0), targets.flip(0))


def test_average_precision_refuses_what_has_no_answer():
    with pytest.raises(ValueError, match="without a positive"):
        average_precision(torch.rand(3), torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="not all finite"):
        average_precision(torch.tensor([0.1, float("nan")]), torch.tensor([True, False]))


def test_mean_is_over_categories_with_a_positive_and_a_negative():
    rng = torch.Generator().manual_seed(0)
    scores, targets = torch.rand(40, 4, generator=rng), torch.rand(40, 4, generator=rng) < 0.4
    targets[:, 1], targets[:, 2] = False, True
    mean, scored = mean_average_precision(scores, targets)
    assert scored == 2
    assert mean == pytest.approx(sum(average_precision(scores[:, c], targets[:, c]) for c in (0, 3)) / 2)
    with pytest.raises(ValueError, match="no category"):
        mean_average_precision(scores[:, 1:3], targets[:, 1:3])


def test_confusion_matrix_equals_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    target, prediction = rng.integers(0, 4, (7, 9)), rng.integers(0, 4, (7, 9))
    target[rng.random((7, 9)) < 0.2] = 255
    slow = np.zeros((4, 4), dtype=np.int64)
    for t, p in zip(target.ravel(), prediction.ravel(), strict=True):
        if t != 255:
            slow[t, p] += 1
    found = confusion_matrix(torch.tensor(prediction), torch.tensor(target, dtype=torch.uint8), 4, ignore=255)
    assert found.dtype == torch.int64
    assert np.array_equal(found.numpy(), slow)


@pytest.mark.parametrize(("prediction", "target"), [(4, 0), (-1, 0), (0, 4), (0, 200)])
def test_confusion_matrix_refuses_classes_that_do_not_exist(prediction, target):
    with pytest.raises(ValueError, match="of 4"):
        confusion_matrix(torch.tensor([0, prediction]), torch.tensor([1, target]), 4, ignore=255)


def test_segmentation_scores_equal_sets_of_pixels():
    rng = np.random.default_rng(1)
    # Class 3 is predicted but never true, class 4 is neither.
    target, prediction = rng.integers(0, 3, 500), rng.integers(0, 4, 500)
    ious, accuracies = [], []
    for c in range(5):
        true, predicted = set(np.flatnonzero(target == c)), set(np.flatnonzero(prediction == c))
        if true | predicted:
            ious.append(len(true & predicted) / len(true | predicted))
        if true:
            accuracies.append(len(true & predicted) / len(true))
    assert (len(ious), len(accuracies)) == (4, 3)
    scores = segmentation_scores(confusion_matrix(torch.tensor(prediction), torch.tensor(target), 5, ignore=255))
    assert scores["mIoU"] == pytest.approx(100 * np.mean(ious))
    assert scores["mAcc"] == pytest.approx(100 * np.mean(accuracies))
    assert scores["aAcc"] == pytest.approx(100 * np.mean(target == prediction))


def test_segmentation_scores_need_a_pixel():
    with pytest.raises(ValueError, match="no pixel"):
        segmentation_scores(torch.zeros(3, 3, dtype=torch.int64))
