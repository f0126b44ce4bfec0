// The page: a picture or the camera in, boxes out; thresholds act on what the network said last, without running it again.

import { decode, Letterbox, type LevelLogits } from "./detector";
import "./page.css";
import { download, openNetwork, type Network } from "./runtime";
import { drawBoxes, percent, type Found } from "./view";

const element = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const stage = element("stage");
const picture = element<HTMLCanvasElement>("picture");
const boxes = element<HTMLCanvasElement>("boxes");
const modelChoice = element<HTMLSelectElement>("model");
const ownFile = element<HTMLInputElement>("own");
const cameraButton = element<HTMLButtonElement>("camera");
const [scoreSlider, iouSlider] = ["score", "iou"].map((id) => element<HTMLInputElement>(id));

let network: Network | undefined;
let last: { levels: LevelLogits[]; letterbox: Letterbox; letterboxTime: number; networkTime: number } | undefined;
let camera: MediaStream | undefined;

/** Tasks run one after the other: the network takes one picture at a time. */
let queue: Promise<void> = Promise.resolve();
function inTurn(what: string, task: () => Promise<void>): Promise<void> {
  queue = queue.then(task).catch((error: unknown) => {
    say(`${what}: ${error instanceof Error ? error.message : error}`);
  });
  return queue;
}

function say(text: string): void {
  element("status").textContent = text;
}

// --- the detector

async function useModel(name: string, read: () => Promise<Uint8Array>): Promise<void> {
  say(`Loading ${name} …`);
  const opened = await openNetwork(await read());
  await network?.release();
  network = opened;
  say(`${name} is ready (${opened.device}). It knows: ${opened.metadata.class_names.join(", ")}.`);
  if (last) await look();
}

async function listModels(): Promise<void> {
  const models: { name: string; file: string }[] = await (await fetch("./models.json")).json();
  for (const { name, file } of models) modelChoice.add(new Option(name, file));
  if (!models.length) {
    modelChoice.disabled = true;
    return say("This host offers no detector; choose an own file.");
  }
  await useModel(models[0].name, () => download(models[0].file));
}

// --- pictures

async function showPicture(file: Blob): Promise<void> {
  stopCamera();
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("this is no picture that your browser can read");
  }
  paint(bitmap, bitmap.width, bitmap.height);
  bitmap.close();
  await look();
}

function paint(source: CanvasImageSource, width: number, height: number): void {
  element("hint").hidden = true;
  for (const canvas of [picture, boxes]) {
    canvas.hidden = false;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  }
  const pen = picture.getContext("2d", { willReadFrequently: true })!;
  pen.fillStyle = "#fff"; // transparent places are white, as in Python
  pen.fillRect(0, 0, width, height);
  pen.drawImage(source, 0, 0, width, height);
}

/** Run the network on the picture. */
async function look(): Promise<void> {
  if (!network || !picture.width || picture.hidden) return;
  const start = performance.now();
  const pixels = picture.getContext("2d", { willReadFrequently: true })!.getImageData(0, 0, picture.width, picture.height);
  const letterbox = new Letterbox([picture.height, picture.width], network.metadata.input_size, network.metadata.stretch);
  const input = letterbox.apply(pixels.data, network.metadata.padding_colour);
  const middle = performance.now();
  const levels = await network.run(input);
  last = { levels, letterbox, letterboxTime: middle - start, networkTime: performance.now() - middle };
  show();
}

/** Boxes of what the network said last, by the thresholds as they stand. */
function show(): void {
  for (const slider of [scoreSlider, iouSlider]) {
    slider.parentElement!.querySelector("output")!.value = percent(slider.valueAsNumber);
  }
  if (!last || !network) return;
  const { levels, letterbox, letterboxTime, networkTime } = last;
  const names = network.metadata.class_names;
  const start = performance.now();
  const found: Found[] = decode(levels, network.metadata, scoreSlider.valueAsNumber, iouSlider.valueAsNumber).map(
    ({ box, score, classId }) => ({ box: letterbox.toImage(box), score, classId, name: names[classId] }),
  );
  const boxTime = performance.now() - start;
  drawBoxes(boxes, found);
  const items = found.map(({ name, score, box }) => {
    const item = document.createElement("li");
    item.textContent = `${name} ${percent(score)}`;
    item.dataset.box = box.map((side) => side.toFixed(2)).join(" ");
    return item;
  });
  element("found").replaceChildren(...items);
  const summary = found.length ? found.map(({ name, score }) => `${name} ${percent(score)}`).join(", ") : "nothing";
  boxes.setAttribute("aria-label", `The picture. Found: ${summary}.`);
  if (!camera) say(`Found: ${summary}.`); // a film would never stop talking
  element("latency").textContent =
    `Picture ${letterboxTime.toFixed(1)} ms, network ${networkTime.toFixed(1)} ms, ` +
    `boxes ${boxTime.toFixed(1)} ms (${network.device})`;
}

// --- the camera

async function startCamera(): Promise<void> {
  if (!navigator.mediaDevices) throw new Error("browsers offer it only to https and localhost");
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: 640 } });
  const video = document.createElement("video");
  [video.muted, video.playsInline, video.srcObject] = [true, true, stream];
  await video.play();
  camera = stream;
  cameraButton.setAttribute("aria-pressed", "true");
  say("The camera is on.");
  void watch(video, stream);
}

async function watch(video: HTMLVideoElement, stream: MediaStream): Promise<void> {
  while (camera === stream) {
    await inTurn("Camera", async () => {
      if (camera !== stream || !video.videoWidth) return;
      paint(video, video.videoWidth, video.videoHeight);
      await look();
    });
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera(): void {
  if (!camera) return;
  for (const track of camera.getTracks()) track.stop();
  camera = undefined;
  cameraButton.setAttribute("aria-pressed", "false");
  say("The camera is off.");
}

// --- what people do

function take(file: File | null | undefined): void {
  if (!file) return;
  if (file.name.toLowerCase().endsWith(".onnx")) void takeModel(file);
  else void inTurn(file.name || "Picture", () => showPicture(file));
}

function takeModel(file: File): Promise<void> {
  return inTurn(file.name, () => useModel(file.name, async () => new Uint8Array(await file.arrayBuffer())));
}

element<HTMLInputElement>("file").addEventListener("change", (event) => {
  const input = event.target as HTMLInputElement;
  take(input.files?.[0]);
  input.value = ""; // the same file again is a change, too
});
ownFile.addEventListener("change", () => take(ownFile.files?.[0]));
modelChoice.addEventListener("change", () => {
  const { text, value } = modelChoice.selectedOptions[0];
  ownFile.value = "";
  void inTurn(text, () => useModel(text, () => download(value)));
});
element("demo").addEventListener("click", () => {
  void inTurn("Demo picture", async () => showPicture(new Blob([(await download("./demo.jpg")) as BlobPart])));
});
cameraButton.addEventListener("click", () => {
  if (camera) stopCamera();
  else void inTurn("Camera", startCamera);
});
for (const slider of [scoreSlider, iouSlider]) slider.addEventListener("input", show);
document.addEventListener("paste", (event) => take(event.clipboardData?.files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  stage.classList.add("over");
});
document.addEventListener("dragleave", () => stage.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("over");
  take(event.dataTransfer?.files[0]);
});

show();
void inTurn("Detector", listModels);
