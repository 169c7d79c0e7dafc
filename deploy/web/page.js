// The page: what a person does, and what is shown of it.

import { Network, loadRuntime, runtimeDescription, softmax } from "./network.js";
import { decoded, fitted, planes } from "./picture.js";

const SHOWN = 5; // classes
const ROUNDS = 5; // of "Time all models", in which the models take turns
const ROUND_SAMPLES = 10; // of each model in a round
const CONTROLS = ["file", "camera", "model"];
const CAMERA_ERRORS = {
  NotAllowedError: "The camera was refused: allow it for this page in the browser, then try again",
  NotFoundError: "There is no camera: choose a picture instead",
  NotReadableError: "The camera is in use elsewhere: end that, then try again",
};

const element = (id) => document.getElementById(id);
const networks = [];
let chosen = null; // network
let answered = null; // the network whose answer is shown
let picture = null; // { source, width, height, name }: see picture.js
let camera = null; // MediaStream
let turn = Promise.resolve();
let waiting = 0; // works that are not done

// ------------------------------------------------------------------------- one work after another

// ONNX Runtime runs one network at a time. What goes wrong is shown.
function inTurn(work) {
  waiting += 1;
  element("main").setAttribute("aria-busy", "true");
  turn = turn.then(work).catch(showProblem);
  return turn.finally(() => {
    waiting -= 1;
    if (!waiting) element("main").setAttribute("aria-busy", "false");
  });
}

function showProblem(error) {
  const box = element("problem");
  const line = `${error.message}.`;
  const isShown = [...box.children].some((shown) => shown.textContent === line);
  if (!isShown) box.append(make("p", "", line));
  box.hidden = false;
}

function hideProblems() {
  element("problem").replaceChildren();
  element("problem").hidden = true;
}

function say(text) {
  element("status").textContent = text;
}

// The browser gets to draw and to react.
function pause() {
  return new Promise((resolve) => setTimeout(resolve));
}

// --------------------------------------------------------------------------------------- models

async function start() {
  say("Loading ONNX Runtime ...");
  await loadRuntime();
  for (const id of CONTROLS) element(id).disabled = false;
  for (const file of await listedFiles()) {
    say(`Loading ${nameOf(file)} ...`);
    await addModel(nameOf(file), () => fetched(file)).catch(showProblem);
  }
  say(networks.length ? `Ready: ${networks.length} models.` : "Add a model to begin.");
}

async function listedFiles() {
  const list = await fetched("models.json").catch(() => null);
  const files = list ? JSON.parse(new TextDecoder().decode(list)).models : [];
  if (!files.length) {
    const remedy = "make it anew with make web, or add one";
    showProblem(new Error(`There is no model in this folder: ${remedy}`));
  }
  return files;
}

async function fetched(file) {
  const response = await fetch(file, { cache: "no-cache" }).catch((error) => {
    throw new Error(`${file} cannot be loaded (${error.message})`);
  });
  if (!response.ok) {
    throw new Error(`${file} cannot be loaded (${response.statusText || response.status})`);
  }
  return new Uint8Array(await response.arrayBuffer());
}

function nameOf(file) {
  return file.replace(/^.*\//, "").replace(/\.onnx$/, "");
}

async function addModel(name, read) {
  const network = await Network.load(name, await read());
  networks.push(network);
  element("rows").append(rowOf(network, networks.length));
  showTimes();
  if (!chosen) choose(network);
}

function rowOf(network, number) {
  const radio = Object.assign(document.createElement("input"), {
    type: "radio",
    name: "chosen",
    id: `model-${number}`,
    checked: !chosen,
  });
  radio.addEventListener("change", () => {
    hideProblems();
    choose(network);
  });
  const parts = network.name.split(/(?<=[_-])/); // a narrow window breaks the name there
  const name = make("span", "", ...parts.flatMap((part) => [part, make("wbr", "")]));
  const label = make("label", "", radio, name);
  const row = make("tr", "", Object.assign(make("th", "", label), { scope: "row" }));
  row.append(make("td", "", network.precision));
  row.append(make("td", "number", network.bytes.toLocaleString("en")));
  row.append(make("td", "number time"));
  return row;
}

// An element with a class and contents: text or elements.
function make(tag, className, ...contents) {
  const made = Object.assign(document.createElement(tag), { className });
  made.append(...contents);
  return made;
}

function choose(network) {
  chosen = network;
  if (picture && !camera) inTurn(classifyPicture);
}

// ------------------------------------------------------------------------------------- answers

async function classifyPicture() {
  if (!chosen) throw new Error("There is no model yet: add one");
  if (!picture) return; // the camera was stopped
  const [network, subject] = [chosen, picture];
  const rgb = fitted(subject, network);
  showInput(rgb, network);
  const logits = await network.timedLogits(planes(rgb));
  if (picture === subject) showAnswer(network, softmax(logits));
  showTimes();
}

function showInput(rgb, { width, height, stretch }) {
  const canvas = Object.assign(element("input"), { width, height });
  const rgba = new Uint8ClampedArray(width * height * 4).fill(255);
  rgb.forEach((value, at) => (rgba[4 * Math.floor(at / 3) + (at % 3)] = value));
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  const part = stretch ? "all of it" : "its centre";
  element("size").textContent = `The network sees ${part}, ${width} × ${height} pixels`;
  element("views").hidden = false;
}

function showAnswer(network, confidences) {
  const order = [...confidences.keys()].sort((one, other) => confidences[other] - confidences[one]);
  const items = order.slice(0, SHOWN).map((index) => {
    const bar = make("span", "bar");
    bar.style.width = `${100 * confidences[index]}%`;
    const share = make("span", "share", `${(100 * confidences[index]).toFixed(1)} %`);
    return make("li", "", bar, make("span", "name", network.classes[index]), share);
  });
  element("classes").replaceChildren(...items);
  answered = network;
}

function showTimes() {
  const cells = element("rows").querySelectorAll(".time");
  networks.forEach(({ samples }, index) => {
    const count = samples.count ? make("small", "", `n = ${samples.count}`) : "";
    cells[index].replaceChildren(milliseconds(samples.percentile(50)), count);
  });
  element("time").textContent = answered ? timeOfAnswer(answered) : "No picture yet.";
  element("measure").disabled = !networks.length;
  element("save").disabled = !networks.some(({ samples }) => samples.count);
}

function timeOfAnswer({ name, precision, samples }) {
  const runs = samples.count === 1 ? "one run" : `median of ${samples.count} runs`;
  return `${name}, ${precision}: ${milliseconds(samples.percentile(50))} (${runs})`;
}

function milliseconds(ms) {
  return ms === null ? "not yet" : `${ms.toPrecision(3)} ms`;
}

// ------------------------------------------------------------------------------- files and camera

function openPicture(file) {
  hideProblems();
  stopCamera();
  return inTurn(async () => {
    forgetPicture();
    const bitmap = await decoded(file);
    picture = { source: bitmap, width: bitmap.width, height: bitmap.height };
    element("image").src = URL.createObjectURL(file);
    showView("image", `${file.name}, ${bitmap.width} × ${bitmap.height} pixels`);
    await classifyPicture();
  });
}

// Nothing of the last picture stays beside what is said of the next.
function forgetPicture() {
  picture?.source.close?.();
  picture = null;
  URL.revokeObjectURL(element("image").src);
  element("views").hidden = true;
  element("classes").replaceChildren();
  answered = null;
  showTimes();
}

function showView(shown, caption) {
  for (const id of ["image", "video"]) element(id).hidden = id !== shown;
  element("source").textContent = caption;
}

function openModel(file) {
  hideProblems();
  return inTurn(() =>
    addModel(nameOf(file.name), async () => new Uint8Array(await file.arrayBuffer())),
  );
}

function openFile(file) {
  return file.name.endsWith(".onnx") ? openModel(file) : openPicture(file);
}

async function toggleCamera() {
  if (camera) return stopCamera();
  hideProblems();
  element("camera").disabled = true; // while the browser asks
  camera = await cameraStream().finally(() => (element("camera").disabled = false));
  element("camera").textContent = "Stop the camera";
  element("classes").setAttribute("aria-live", "off"); // a new answer many times a second
  return showVideo(element("video"));
}

async function cameraStream() {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers give a camera to https and localhost only: choose a picture instead");
  }
  if (!chosen) throw new Error("There is no model yet: add one");
  const wanted = { video: { facingMode: "environment" } };
  const stream = await navigator.mediaDevices.getUserMedia(wanted).catch((error) => {
    throw new Error(CAMERA_ERRORS[error.name] ?? `The camera cannot be used (${error.message})`);
  });
  stream.getVideoTracks()[0].addEventListener("ended", () => {
    stopCamera();
    showProblem(new Error("The camera has gone away: connect it, then try again"));
  });
  return stream;
}

async function showVideo(video) {
  const stream = camera;
  video.srcObject = stream;
  await video.play();
  forgetPicture();
  while (camera === stream) {
    picture = { source: video, width: video.videoWidth, height: video.videoHeight };
    showView("video", `Camera, ${video.videoWidth} × ${video.videoHeight} pixels`);
    await inTurn(classifyPicture);
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  if (!camera) return;
  for (const track of camera.getTracks()) track.stop();
  camera = null;
  forgetPicture();
  element("camera").textContent = "Use the camera";
  element("classes").setAttribute("aria-live", "polite");
}

// -------------------------------------------------------------------------------------- figures

// In rounds, so that what disturbs the machine for a while disturbs all models.
async function measureAll() {
  const inputs = networks.map((network) => picture && planes(fitted(picture, network)));
  for (const { samples } of networks) samples.clear();
  for (let round = 1; round <= ROUNDS; round++) {
    for (const [index, network] of networks.entries()) {
      say(`Timing ${network.name}, round ${round} of ${ROUNDS} ...`);
      await pause();
      await network.measure(ROUND_SAMPLES, inputs[index] ?? undefined);
      showTimes();
    }
  }
  say(`Timed: ${ROUNDS * ROUND_SAMPLES} samples of each model.`);
}

async function saveFigures() {
  const wanted = ["model", "platformVersion"];
  const figures = {
    date: new Date().toISOString(),
    machine: {
      user_agent: navigator.userAgent,
      device: (await navigator.userAgentData?.getHighEntropyValues(wanted)) ?? null,
      cores: navigator.hardwareConcurrency,
    },
    runtime: runtimeDescription(),
    models: networks.filter(({ samples }) => samples.count).map((network) => network.figures()),
  };
  const text = `${JSON.stringify(figures, null, 2)}\n`;
  const link = Object.assign(document.createElement("a"), { download: "browser_figures.json" });
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// --------------------------------------------------------------------------------------- events

for (const [id, open] of [["file", openPicture], ["model", openModel]]) {
  element(id).addEventListener("change", ({ target }) => {
    if (target.files.length) open(target.files[0]);
    target.value = ""; // the same file may be chosen again
  });
}
element("camera").addEventListener("click", () =>
  toggleCamera().catch((error) => {
    stopCamera();
    showProblem(error);
  }),
);
element("measure").addEventListener("click", () => {
  hideProblems();
  stopCamera();
  inTurn(measureAll);
});
element("save").addEventListener("click", () => saveFigures().catch(showProblem));

for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // the browser would leave the page and open the file
    document.body.classList.toggle("dropping", kind === "dragover");
  });
}
document.addEventListener("drop", ({ dataTransfer }) => {
  const [file] = dataTransfer.files;
  if (file && !element("file").disabled) openFile(file);
});

inTurn(start);
