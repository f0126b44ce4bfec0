"""The bundled pictures through the bundled detector."""

from pathlib import Path

from pocketdet.cli.app import AsJson, app, print_json
from pocketdet.cli.predict import print_detections

DEMO_PICTURES = ("chelsea.jpg", "astronaut.jpg")


@app.command
def demo(*, output: Path = Path("demo.jpg"), as_json: AsJson = False) -> None:
    """Find a cat and a person in the pictures that come with pocketdet.

    Prints what the bundled detector "animals" finds and writes both pictures, with boxes, into one file.

    Args:
        output: The file with both pictures.
    """
    import numpy as np

    from pocketdet.core.drawing import draw, save_image
    from pocketdet.core.images import read_image
    from pocketdet.loading import ASSETS, load

    predictor = load("animals")
    paths = [ASSETS / name for name in DEMO_PICTURES]
    pictures = [read_image(path).pixels for path in paths]
    found = [predictor.predict(path) for path in paths]
    drawn = [draw(detections, picture) for detections, picture in zip(found, pictures, strict=True)]
    height = max(picture.shape[0] for picture in drawn)
    columns = [np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=255) for p in drawn]
    save_image(np.concatenate(columns, axis=1), output)
    if as_json:
        print_json({"pictures": [detections.to_dict() for detections in found], "drawing": str(output)})
        return
    for detections in found:
        print_detections(detections, 0.3)
    print(f"the pictures with boxes are in {output}")
