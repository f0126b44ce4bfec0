"""Other toolkits for ``predict.py``, which runs this in their own environment.

PYTHON benchmarks/predict_peers.py PICTURE THREADS

prints "> " and the names of what is installed, then for each name on standard input "> " and the milliseconds of one
picture, by the clock and in processor time.
Networks have random weights, so that nothing is downloaded.
"""

import contextlib
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())
os.environ["YOLO_AUTOINSTALL"] = "false"
os.environ["YOLO_OFFLINE"] = "true"

SIZE = 416


def ultralytics_torch(picture: str) -> Callable[[], object]:
    """YOLOv8n as its users call it."""
    from ultralytics import YOLO

    model = YOLO("yolov8n.yaml")
    return lambda: model.predict(picture, imgsz=SIZE, device="cpu", verbose=False)


def ultralytics_openvino(picture: str) -> Callable[[], object]:
    """The same, exported by itself to OpenVINO."""
    from ultralytics import YOLO

    os.chdir(tempfile.mkdtemp())
    exported = YOLO(YOLO("yolov8n.yaml").export(format="openvino", imgsz=SIZE, verbose=False), task="detect")
    return lambda: exported.predict(picture, imgsz=SIZE, device="cpu", verbose=False)


def torchvision_ssdlite(picture: str) -> Callable[[], object]:
    """SSDLite320 on MobileNet V3-Large, as its documentation shows."""
    import torch
    from torchvision.io import decode_image
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()

    def detect() -> object:
        with torch.inference_mode():
            return model([decode_image(picture).float() / 255])

    return detect


BUILDERS = {
    "yolov8n-torch": (ultralytics_torch, "ultralytics"),
    "yolov8n-openvino": (ultralytics_openvino, "ultralytics"),
    "ssdlite320-torch": (torchvision_ssdlite, "torchvision"),
}


def main() -> None:
    picture, threads = os.path.abspath(sys.argv[1]), int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what toolkits print goes to standard error
    import torch

    torch.set_num_threads(threads)
    calls = {}
    for name, (build, package) in BUILDERS.items():
        if importlib.util.find_spec(package) is not None:
            with contextlib.suppress(ImportError):
                calls[name] = build(picture)
                calls[name]()
    print("> " + ",".join(calls), file=answers, flush=True)
    for line in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        calls[line.strip()]()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(f"> {wall * 1000} {processor * 1000}", file=answers, flush=True)


if __name__ == "__main__":
    main()
