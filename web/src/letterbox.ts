// As pocketdet/core/letterbox.py: the picture keeps its shape, bars fill the rest; or it is stretched. Sizes are [height, width].

export type Size = readonly [number, number];
export type Box = [number, number, number, number]; // left, top, right, bottom

export class Letterbox {
  readonly resized: Size; // of the picture inside the input
  readonly offset: Size; // top and left bar, in input pixels

  constructor(
    readonly imageSize: Size,
    readonly inputSize: Size,
    stretch = false,
  ) {
    const scale = Math.min(inputSize[0] / imageSize[0], inputSize[1] / imageSize[1]);
    const fit = (side: number) => Math.max(1, roundHalfToEven(side * scale));
    this.resized = stretch ? inputSize : [fit(imageSize[0]), fit(imageSize[1])];
    this.offset = [
      Math.floor((inputSize[0] - this.resized[0]) / 2),
      Math.floor((inputSize[1] - this.resized[1]) / 2),
    ];
  }

  /** RGBA of the picture to RGB of the network's input. */
  apply(rgba: Uint8ClampedArray, colour: readonly number[]): Uint8Array {
    const [height, width] = this.inputSize;
    const [top, left] = this.offset;
    const input = new Uint8Array(height * width * 3);
    for (let n = 0; n < input.length; n++) input[n] = colour[n % 3];
    const rows = resize(rgba, this.imageSize, this.resized);
    const length = this.resized[1] * 3;
    for (let y = 0; y < this.resized[0]; y++) {
      input.set(rows.subarray(y * length, (y + 1) * length), ((top + y) * width + left) * 3);
    }
    return input;
  }

  /** A box from input pixels to image pixels, clipped to the picture. */
  toImage(box: Box): Box {
    const [height, width] = this.imageSize;
    const x = (v: number) => clip(((v - this.offset[1]) * width) / this.resized[1], width);
    const y = (v: number) => clip(((v - this.offset[0]) * height) / this.resized[0], height);
    return [x(box[0]), y(box[1]), x(box[2]), y(box[3])];
  }
}

function clip(value: number, limit: number): number {
  return Math.min(Math.max(value, 0), limit);
}

/** As Python rounds. */
function roundHalfToEven(value: number): number {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

interface Taps {
  first: number; // input place of the first weight
  weights: Float64Array;
}

/** Pillow's bilinear filter: a triangle as wide as the step, so that nothing is left out when a picture shrinks. */
function taps(from: number, to: number): Taps[] {
  const step = from / to;
  const support = Math.max(step, 1);
  return Array.from({ length: to }, (_, n) => {
    const centre = (n + 0.5) * step;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    const weights = new Float64Array(end - first);
    for (let k = 0; k < weights.length; k++) {
      weights[k] = Math.max(0, 1 - Math.abs((first + k - centre + 0.5) / support));
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

/** RGBA to RGB of another size: first the rows, then the columns, rounded in between as Pillow does. */
export function resize(rgba: Uint8ClampedArray, from: Size, to: Size): Uint8Array {
  const [height, width] = from;
  const [newHeight, newWidth] = to;
  const columns = taps(width, newWidth);
  const rows = new Uint8Array(height * newWidth * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < newWidth; x++) {
      const { first, weights } = columns[x];
      let [red, green, blue] = [0.5, 0.5, 0.5];
      for (let k = 0, place = (y * width + first) * 4; k < weights.length; k++, place += 4) {
        red += weights[k] * rgba[place];
        green += weights[k] * rgba[place + 1];
        blue += weights[k] * rgba[place + 2];
      }
      const out = (y * newWidth + x) * 3;
      rows[out] = red;
      rows[out + 1] = green;
      rows[out + 2] = blue;
    }
  }
  const length = newWidth * 3;
  const resized = new Uint8Array(newHeight * length);
  taps(height, newHeight).forEach(({ first, weights }, y) => {
    for (let x = 0; x < length; x++) {
      let value = 0.5;
      for (let k = 0; k < weights.length; k++) value += weights[k] * rows[(first + k) * length + x];
      resized[y * length + x] = value;
    }
  });
  return resized;
}
