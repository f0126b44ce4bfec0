// Just enough of protobuf to read an ONNX file and to write it again with other numbers in it.

export interface Field {
  number: number;
  whole: Uint8Array; // with its tag
  value: number; // of a number; 0 for all else
  bytes: Uint8Array; // of a string or message; empty for all else
}

const [VARINT, FIXED64, BYTES, FIXED32] = [0, 1, 2, 5]; // wire types

/** The fields of a message, in order. Throws a RangeError where there is no message. */
export function* fields(message: Uint8Array): Generator<Field> {
  let place = 0;
  const varint = (): number => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (place >= message.length) throw new RangeError("cut");
      const byte = message[place++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (place < message.length) {
    const start = place;
    const tag = varint();
    const kind = tag % 8;
    let value = 0;
    let begin = place;
    if (kind === VARINT) value = varint();
    else if (kind === FIXED64) place += 8;
    else if (kind === FIXED32) place += 4;
    else if (kind === BYTES) {
      const length = varint();
      begin = place;
      place += length;
    } else throw new RangeError("no protobuf");
    if (place > message.length) throw new RangeError("cut");
    const bytes = message.subarray(kind === BYTES ? begin : place, place);
    yield { number: Math.floor(tag / 8), whole: message.subarray(start, place), value, bytes };
  }
}

export function numberField(number: number, value: number): Uint8Array {
  return Uint8Array.from([...varintBytes(number * 8 + VARINT), ...varintBytes(value)]);
}

export function bytesField(number: number, bytes: Uint8Array): Uint8Array {
  return concatenate([Uint8Array.from([...varintBytes(number * 8 + BYTES), ...varintBytes(bytes.length)]), bytes]);
}

export function concatenate(parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole;
}

function varintBytes(value: number): number[] {
  const bytes: number[] = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return [...bytes, value];
}
