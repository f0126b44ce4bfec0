// After Vite: ONNX Runtime's own files, and a hash of the sources that tells a test whether the build is up to date.
import { createHash } from "node:crypto";
import { copyFileSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const built = "../src/pocketdet/web/static";
const runtime = "node_modules/onnxruntime-web";
const name = "ort-wasm-simd-threaded.asyncify"; // the one that runs on WebGPU and on WASM, in all browsers

copyFileSync(`${runtime}/dist/${name}.mjs`, `${built}/${name}.mjs`);
rmSync(`${built}/${name}.wasm`); // Vite's copy; the page unpacks a quarter of its size
writeFileSync(`${built}/${name}.wasm.gz`, gzipSync(readFileSync(`${runtime}/dist/${name}.wasm`), { level: 9 }));
writeFileSync(
  `${built}/LICENSES.txt`,
  "ONNX Runtime Web (ort-wasm-simd-threaded.*, parts of index.js), MIT, https://github.com/microsoft/onnxruntime\n" +
    "Copyright (c) Microsoft Corporation\n\n" +
    readFileSync("../LICENSE", "utf8").replace(/^Copyright.*\n+/m, ""),
);
const hash = createHash("sha256");
for (const file of ["index.html", "package.json", "vite.config.ts", "finish.mjs", ...readdirSync("src").sort().map((f) => `src/${f}`)]) {
  hash.update(`${file}\n`).update(readFileSync(file));
}
writeFileSync(`${built}/sources.sha256`, `${hash.digest("hex")}\n`);
