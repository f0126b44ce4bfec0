// What the page's detector.js makes of the inputs that a test wrote. node run_detector.mjs DETECTOR.js FOLDER
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [script, folder] = process.argv.slice(2);
const detector = await import(pathToFileURL(script));
const read = (name) => new Uint8Array(readFileSync(`${folder}/${name}`));
const jobs = JSON.parse(readFileSync(`${folder}/jobs.json`, "utf8"));
const results = [];

const actions = {
  letterbox({ rgba, imageSize, inputSize, stretch, colour, out }) {
    const letterbox = new detector.Letterbox(imageSize, inputSize, stretch);
    writeFileSync(`${folder}/${out}`, letterbox.apply(new Uint8ClampedArray(read(rgba)), colour));
    return { resized: letterbox.resized, offset: letterbox.offset };
  },
  decode({ levels, metadata, imageSize, score, iou }) {
    const raw = levels.map(({ boxes, objectness, classes, ...size }) => {
      const floats = (name) => new Float32Array(read(name).slice().buffer);
      return { ...size, boxes: floats(boxes), objectness: floats(objectness), classes: floats(classes) };
    });
    const letterbox = new detector.Letterbox(imageSize, metadata.input_size);
    const found = detector.decode(raw, metadata, score, iou);
    return found.map((one) => ({ ...one, box: letterbox.toImage(one.box) }));
  },
  metadata: ({ file }) => detector.readMetadata(read(file)).catch((error) => error.message),
  widen({ file, out }) {
    writeFileSync(`${folder}/${out}`, detector.widenWeights(read(file)));
    return null;
  },
};
for (const { action, ...job } of jobs) results.push(await actions[action](job));
writeFileSync(`${folder}/results.json`, JSON.stringify(results));
