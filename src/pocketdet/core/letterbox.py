"""The one letterbox: the picture keeps its shape, bars fill the rest; or, for some networks, it is stretched."""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """How a picture lies in the network's input.

    Args:
        image_size: (height, width) of the picture, in image pixels.
        input_size: (height, width) of the network's input, in input pixels.
        stretch: Let the picture fill the input and lose its proportions.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    stretch: bool = False

    @property
    def scale(self) -> float:
        """Input pixels per image pixel, without ``stretch``."""
        return min(self.input_size[0] / self.image_size[0], self.input_size[1] / self.image_size[1])

    @property
    def resized(self) -> tuple[int, int]:
        """(height, width) of the picture inside the input."""
        if self.stretch:
            return self.input_size
        height, width = (max(1, round(side * self.scale)) for side in self.image_size)
        return height, width

    @property
    def offset(self) -> tuple[int, int]:
        """(top, left) bar, in input pixels."""
        return (self.input_size[0] - self.resized[0]) // 2, (self.input_size[1] - self.resized[1]) // 2

    def apply(
        self, image: NDArray[np.uint8] | Image.Image, colour: tuple[int, int, int], margin: float | None = None
    ) -> NDArray[np.uint8]:
        """Resize and pad.

        Args:
            image: ``(H, W, 3)`` RGB, or Pillow's RGB picture, of any size with the same proportions as ``image_size``
                (a JPEG may have been decoded at a reduced scale).
            colour: RGB of the bars.
            margin: First make the picture smaller by means of squares, which is fast, as long as it stays so many times
                as large as it will lie in the input; by default it is resized at once.

        Returns:
            ``(input height, input width, 3)`` RGB.
        """
        canvas = np.empty((*self.input_size, 3), np.uint8)
        canvas.reshape(len(canvas), -1)[:] = np.tile(np.array(colour, np.uint8), self.input_size[1])  # whole rows: fast
        height, width = self.resized
        top, left = self.offset
        if isinstance(image, np.ndarray) and image.shape[:2] != (height, width):
            image = Image.fromarray(image)
        if isinstance(image, Image.Image):
            image = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=margin))
        canvas[top : top + height, left : left + width] = image
        return canvas

    def to_image(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(N, 4)`` boxes from input pixels to image pixels, clipped to the picture."""
        scale_y, scale_x = (r / i for r, i in zip(self.resized, self.image_size, strict=True))
        scale = np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
        image: NDArray[np.float32] = (boxes - np.array(self.offset[::-1] * 2, np.float32)) / scale
        height, width = self.image_size
        limit = np.array([width, height, width, height], np.float32)
        return np.clip(image, 0, limit).astype(np.float32)

    def to_input(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(N, 4)`` boxes from image pixels to input pixels."""
        scale_y, scale_x = (r / i for r, i in zip(self.resized, self.image_size, strict=True))
        scale = np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
        moved: NDArray[np.float32] = boxes * scale + np.array(self.offset[::-1] * 2, np.float32)
        return moved.astype(np.float32)
