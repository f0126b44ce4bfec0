// What an exported file says about itself: pocketdet/core/metadata.py and seal.py.

import { fields } from "./protobuf";

export interface Metadata {
  class_names: string[];
  input_size: [number, number]; // height, width
  anchors: [number, number][][];
  strides: number[];
  scale_xy: number[];
  padding_colour: [number, number, number];
  stretch?: boolean;
  metrics: Record<string, number>;
}

const METADATA_PROPS = 14; // the field of ONNX's ModelProto
const SEAL = "pocketdet_sha256\x12\x40";

/** The metadata of an exported file. Throws where there are none, or the file was changed. */
export async function readMetadata(content: Uint8Array): Promise<Metadata> {
  let text: string | undefined;
  try {
    text = readProperties(content).get("pocketdet");
  } catch {
    throw new Error("This is no ONNX file, or it is cut.");
  }
  if (text === undefined) {
    throw new Error("This model has no pocketdet metadata; only files written by 'pocketdet export' can be used.");
  }
  if (!(await isIntact(content))) throw new Error("This file was changed after 'pocketdet export' wrote it.");
  return JSON.parse(text);
}

/** metadata_props of a ModelProto. */
export function readProperties(content: Uint8Array): Map<string, string> {
  const properties = new Map<string, string>();
  for (const { number, bytes } of fields(content)) {
    if (number !== METADATA_PROPS) continue;
    const entry = new Map(Array.from(fields(bytes), (field) => [field.number, field.bytes]));
    const text = (n: number) => new TextDecoder().decode(entry.get(n));
    properties.set(text(1), text(2));
  }
  return properties;
}

/** Whether the SHA-256 within the file is the file's own, with zeros in its place. */
export async function isIntact(content: Uint8Array): Promise<boolean> {
  if (!globalThis.crypto?.subtle) return true; // browsers offer it only to https and localhost
  const seal = new TextEncoder().encode(SEAL);
  const start = lastIndexOf(content, seal) + seal.length;
  if (start < seal.length) return false;
  const blank = content.slice();
  blank.fill("0".charCodeAt(0), start, start + 64);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", blank));
  const expected = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return new TextDecoder().decode(content.subarray(start, start + 64)) === expected;
}

function lastIndexOf(content: Uint8Array, part: Uint8Array): number {
  for (let start = content.length - part.length; start >= 0; start--) {
    if (part.every((byte, n) => content[start + n] === byte)) return start;
  }
  return -part.length;
}
