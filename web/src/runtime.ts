// Runs exported files in ONNX Runtime Web, on WebGPU where there is one, else on WASM.

import * as ort from "onnxruntime-web/webgpu";
import { readMetadata, widenWeights, type LevelLogits, type Metadata } from "./detector";

const RUNTIME = "ort-wasm-simd-threaded.asyncify";
const MAX_THREADS = 4;
const PARTS = ["boxes", "objectness", "classes"] as const;

export interface Network {
  metadata: Metadata;
  device: string; // for people
  run(input: Uint8Array): Promise<LevelLogits[]>;
  release(): Promise<void>;
}

let isRuntimeLoaded: Promise<void> | undefined;

async function loadRuntime(): Promise<void> {
  // Without cross-origin isolation, which needs two headers from the host, a page has no threads.
  const threads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MAX_THREADS) : 1;
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = { mjs: new URL(`./${RUNTIME}.mjs`, document.baseURI).href };
  ort.env.wasm.wasmBinary = await unzipped(await download(`./${RUNTIME}.wasm.gz`));
  ort.env.logLevel = "error";
}

export async function download(url: string): Promise<Uint8Array> {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: the host answered ${answer.status}.`);
  return new Uint8Array(await answer.arrayBuffer());
}

async function unzipped(content: Uint8Array): Promise<Uint8Array> {
  if (content[0] !== 0x1f) return content; // some hosts announce .gz as an encoding, which the browser undid
  const stream = new Blob([content as BlobPart]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export async function openNetwork(content: Uint8Array): Promise<Network> {
  const metadata = await readMetadata(content);
  const model = widenWeights(content);
  isRuntimeLoaded ??= loadRuntime();
  await isRuntimeLoaded;
  if (await hasWebGpu()) {
    try {
      return await openOn("webgpu", "WebGPU", model, metadata);
    } catch (error) {
      console.warn("WebGPU cannot run this network:", error);
    }
  }
  const threads = ort.env.wasm.numThreads;
  return await openOn("wasm", `WASM, ${threads} ${threads === 1 ? "thread" : "threads"}`, model, metadata);
}

async function hasWebGpu(): Promise<boolean> {
  const gpu = (navigator as { gpu?: { requestAdapter(): Promise<{ info?: { isFallbackAdapter?: boolean } } | null> } }).gpu;
  const adapter = await gpu?.requestAdapter().catch(() => null);
  // A fallback adapter computes on the CPU, slower than WASM does.
  return !!adapter && !adapter.info?.isFallbackAdapter;
}

async function openOn(provider: string, device: string, model: Uint8Array, metadata: Metadata): Promise<Network> {
  const session = await ort.InferenceSession.create(model, {
    executionProviders: [provider],
    logSeverityLevel: 3, // errors
  });
  const [height, width] = metadata.input_size;
  const network = {
    metadata,
    device,
    release: () => session.release(),
    async run(input: Uint8Array): Promise<LevelLogits[]> {
      const images = new ort.Tensor("uint8", input, [1, height, width, 3]);
      const outputs = await session.run({ images });
      return metadata.strides.map((_, n) => {
        const [boxes, objectness, classes] = PARTS.map((part) => outputs[`${part}_p${n + 3}`]);
        if (!boxes || !objectness || !classes) throw new Error(`The model has no outputs of level P${n + 3}.`);
        const [rows, columns] = objectness.dims.slice(2);
        const data = (tensor: ort.Tensor) => tensor.data as Float32Array;
        return { boxes: data(boxes), objectness: data(objectness), classes: data(classes), height: rows, width: columns };
      });
    },
  };
  try {
    await network.run(new Uint8Array(height * width * 3)); // compiles, and tells whether it runs at all
  } catch (error) {
    await session.release();
    throw error;
  }
  return network;
}
