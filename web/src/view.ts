// Draws a picture and its boxes; the colours are those of pocketdet/core/drawing.py.

import type { Box } from "./detector";

export interface Found {
  name: string;
  classId: number;
  score: number;
  box: Box; // image pixels
}

// prettier-ignore
const PALETTE = [
  "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2", "#9467bd", "#aadc8c", "#ff9daa",
];

export function drawBoxes(canvas: HTMLCanvasElement, found: Found[]): void {
  const pen = canvas.getContext("2d")!;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const shorter = Math.min(canvas.width, canvas.height);
  const line = Math.max(2, Math.round(shorter / 180));
  const textSize = Math.max(12, Math.round(shorter * 0.035), Math.round((13 * canvas.width) / (canvas.clientWidth || canvas.width)));
  pen.lineWidth = line;
  pen.font = `600 ${textSize}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  for (const { name, classId, score, box } of [...found].reverse()) {
    const [left, top, right, bottom] = box;
    const colour = PALETTE[classId % PALETTE.length];
    pen.strokeStyle = pen.fillStyle = colour;
    pen.strokeRect(left + line / 2, top + line / 2, Math.max(1, right - left - line), Math.max(1, bottom - top - line));
    const text = `${name} ${percent(score)}`;
    const [width, height] = [pen.measureText(text).width + textSize * 0.7, textSize * 1.5];
    const x = Math.max(0, Math.min(left, canvas.width - width));
    const y = top >= height ? top - height : Math.min(top, canvas.height - height);
    pen.fillRect(x, y, width, height);
    pen.fillStyle = isDark(colour) ? "#fff" : "#000";
    pen.fillText(text, x + textSize * 0.35, y + height / 2);
  }
}

export function percent(score: number): string {
  return `${Math.round(score * 100)}%`;
}

/** Whether white is easier to read on it than black: WCAG's relative luminance. */
function isDark(colour: string): boolean {
  const [red, green, blue] = [1, 3, 5].map((at) => (parseInt(colour.slice(at, at + 2), 16) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue <= 0.179;
}
