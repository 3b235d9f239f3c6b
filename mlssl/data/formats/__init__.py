"""One reader per annotation format: COCO, VOC, YOLO and CSV. Imports no torch."""
