"""Labelled pictures in VOC XML, COCO JSON and YOLO txt, read without conversion."""
