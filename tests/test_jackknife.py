"""Values of a metric without each group of images, against explicit recomputation."""

import torch

from mlssl.transfer.jackknife import groups, row, without_each, without_each_part
from mlssl.transfer.metrics import confusion_matrix, segmentation_scores


def test_image_i_is_in_group_i_mod_50():
    assert groups(120).tolist() == [i % 50 for i in range(120)]
    assert groups(12).tolist() == list(range(12))


def test_each_value_is_the_metric_of_the_other_images():
    values = torch.randn(120, generator=torch.Generator().manual_seed(0))
    found = without_each(120, lambda kept: float(values[kept].mean()))
    assert found == [float(values[[i for i in range(120) if i % 50 != g]].mean()) for g in range(50)]


def test_counts_of_groups_give_what_their_images_give():
    rng = torch.Generator().manual_seed(0)
    target, prediction = (torch.randint(3, (60, 20), generator=rng) for _ in range(2))
    parts = torch.stack([confusion_matrix(prediction[g::50], target[g::50], 3, 255) for g in range(50)])
    found = without_each_part(60, parts, lambda counts: segmentation_scores(counts)["mIoU"])
    for g in range(50):
        rest = [i for i in range(60) if i % 50 != g]
        counts = confusion_matrix(prediction[rest], target[rest], 3, 255)
        assert found[g] == segmentation_scores(counts)["mIoU"]


def test_few_images_and_undefined_values_give_no_list():
    assert without_each(9, lambda kept: 1.0) is None
    assert without_each(10, lambda kept: None if kept[3] else 1.0) is None
    assert row("knn", "mAP", 1.0, 9, None) == {"protocol": "knn", "metric": "mAP", "value": 1.0, "n": 9}
    assert row("knn", "mAP", 1.0, 9, [0.12345678])["jackknife"] == [0.1235]
