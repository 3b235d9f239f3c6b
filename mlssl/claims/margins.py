"""The equivalence margin δ of every score: differences below it count as none."""

MARGIN = {
    "AP_bbox": 0.5,
    "AP50_bbox": 0.5,
    "AP_segm": 0.5,
    "mIoU": 1.0,
    "mAP": 1.0,
    "mAcc": 1.0,
    "accuracy": 1.0,
    "precision_at_1": 1.0,
    "shared": 1.0,
}
"""Metric -> δ in percentage points. A score with another metric is not used for claims.

Half a point of AP is the smallest step that the paper's tables 6 and 7 are about (38.8, 39.1, 39.6, 40.1); its
smallest gain in multi-label classification is 2.1 points, and in semantic segmentation 0.9.
"""
