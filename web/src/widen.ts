// 'pocketdet export --half' stores weights as 16-bit integers that the graph casts to float. ONNX Runtime Web has no such
// cast, so the integers become floats of the same values here; a cast of a float to a float is nothing.

import { bytesField, concatenate, fields, numberField } from "./protobuf";

// Field numbers of ONNX's ModelProto, GraphProto and TensorProto, and two of its data types.
const [GRAPH, INITIALIZER, DATA_TYPE, RAW_DATA] = [7, 5, 2, 9];
const [FLOAT, INT16] = [1, 5];

/** The same model with float weights where there were 16-bit integers. */
export function widenWeights(model: Uint8Array): Uint8Array {
  return replace(model, GRAPH, (graph) => replace(graph, INITIALIZER, widenTensor));
}

function replace(message: Uint8Array, number: number, change: (part: Uint8Array) => Uint8Array): Uint8Array {
  return concatenate(
    Array.from(fields(message), (field) =>
      field.number === number ? bytesField(number, change(field.bytes)) : field.whole,
    ),
  );
}

function widenTensor(tensor: Uint8Array): Uint8Array {
  const parts = [...fields(tensor)];
  const raw = parts.find(({ number }) => number === RAW_DATA);
  if (!raw || !parts.some(({ number, value }) => number === DATA_TYPE && value === INT16)) return tensor;
  const integers = new Int16Array(raw.bytes.slice().buffer); // little-endian, as are all machines with browsers
  const floats = new Uint8Array(Float32Array.from(integers).buffer);
  return concatenate(
    parts.map(({ number, whole }) => {
      if (number === DATA_TYPE) return numberField(DATA_TYPE, FLOAT);
      return number === RAW_DATA ? bytesField(RAW_DATA, floats) : whole;
    }),
  );
}
