"""Object detectors that fit in a pocket: YOLOv4 on MobileNet V1, V2 and V3."""
