// A model in ONNX Runtime Web: WebAssembly on the processor, one thread.

import { SAMPLES, describe } from "./model_file.js";
import { Samples, callsOfSample, clockStep } from "./timing.js";

const RUNTIME = "./onnxruntime/ort.wasm.bundle.min.js";
// Calls that are not timed, of a network that has rested: the pipeline's interleaved_timing.py.
const SETTLE_CALLS = 4;
const SETTLE_MS = 4;

let ort = null;
let step = 0; // of the clock, in milliseconds

// Loads ONNX Runtime; its WebAssembly follows with the first network. Throws an Error that says
// what this browser or the folder lacks.
export async function loadRuntime() {
  if (typeof WebAssembly !== "object") {
    throw new Error(
      "This browser has no WebAssembly, which runs the network; expected a current Chrome, " +
        "Firefox, Edge or Safari, not in a lockdown mode",
    );
  }
  ort = await import(RUNTIME).catch((error) => {
    throw new Error(
      `ONNX Runtime cannot be loaded (${error.message}); make the folder anew with make web`,
    );
  });
  ort.env.wasm.numThreads = 1; // more need headers that plain servers do not send
  ort.env.logLevel = "error";
  step = clockStep();
}

export function runtimeDescription() {
  const version = ort ? ort.env.versions.web : null;
  return { name: "onnxruntime-web", version, backend: "wasm", threads: 1, clock_step_ms: step };
}

export class Network {
  #session;
  #calls = 1; // of a sample
  samples = new Samples();

  // ``file``: the bytes of an .onnx file. Throws an Error that says why it cannot be used.
  static async load(name, file) {
    const network = new Network();
    try {
      Object.assign(network, { name, bytes: file.length }, describe(file));
      await network.#start(file);
    } catch (error) {
      throw new Error(`${name} ${error.message}`);
    }
    return network;
  }

  async #start(file) {
    this.#session = await ort.InferenceSession.create(file).catch((error) => {
      throw new Error(`cannot be run here (${error.message})`);
    });
    const shape = [this.height, this.width];
    const off = this.expected ? await this.#percentOff(shape) : 0;
    if (!(off <= (this.expected?.tolerance ?? 0))) {
      throw new Error(`is computed wrongly here: its logits are ${off.toPrecision(2)} % off`);
    }
    await this.#settle(sample(0, ...shape));
    const { calls, ms } = await this.#settle(sample(0, ...shape));
    this.#calls = callsOfSample(ms / calls, step);
  }

  // Logits of a network's input (3 * height * width) float32. Throws an Error when they are not one
  // finite number for each class.
  async logits(input) {
    const shape = [1, 3, this.height, this.width];
    const feeds = { [this.#session.inputNames[0]]: new ort.Tensor("float32", input, shape) };
    const outputs = await this.#session.run(feeds);
    const { data } = outputs[this.#session.outputNames[0]];
    if (data.length !== this.classes.length || !data.every(Number.isFinite)) {
      throw new Error(`returns ${data.length} numbers, not a finite one for each class`);
    }
    return data;
  }

  // The same, timed: a sample is the mean of so many calls that the clock can tell.
  async timedLogits(input) {
    let logits = null;
    const start = performance.now();
    for (let call = 0; call < this.#calls; call++) logits = await this.logits(input);
    this.samples.add((performance.now() - start) / this.#calls);
    return logits;
  }

  // ``count`` samples of a turn, after the calls that settle it; of ``input``, or of a synthetic picture.
  async measure(count, input = sample(0, this.height, this.width)) {
    await this.#settle(input);
    for (let index = 0; index < count; index++) await this.timedLogits(input);
  }

  async #settle(input) {
    const start = performance.now();
    let [calls, ms] = [0, 0];
    while (calls < SETTLE_CALLS || ms < SETTLE_MS) {
      await this.logits(input);
      calls += 1;
      ms = performance.now() - start;
    }
    return { calls, ms };
  }

  // How far the logits of the samples are from the expected ones: root mean squares, without each
  // picture's mean.
  async #percentOff(shape) {
    let [off, all] = [0, 0];
    for (let number = 0; number < SAMPLES; number++) {
      const found = centred([...(await this.logits(sample(number, ...shape)))]);
      const wanted = centred(this.expected.logits[number]);
      off += squares(found.map((logit, index) => logit - wanted[index]));
      all += squares(wanted);
    }
    return 100 * Math.sqrt(off / all);
  }

  // For a file of results.
  figures() {
    return {
      model: this.name,
      size_bytes: this.bytes,
      precision: this.precision,
      latency_ms_median: this.samples.percentile(50),
      latency_ms_p5: this.samples.percentile(5),
      latency_ms_p95: this.samples.percentile(95),
      samples: this.samples.count,
      calls_per_sample: this.#calls,
    };
  }
}

function centred(row) {
  const mean = row.reduce((sum, logit) => sum + logit, 0) / row.length;
  return row.map((logit) => logit - mean);
}

function squares(row) {
  return row.reduce((sum, value) => sum + value ** 2, 0);
}

// A synthetic picture (3 * height * width) float32 in 0-255, as the pipeline's
// runtimes/expected.py defines it.
export function sample(number, height, width) {
  const wave = (value) => Math.abs((value % 510) - 255);
  return Float32Array.from({ length: 3 * height * width }, (_, at) => {
    const [x, row] = [at % width, Math.floor(at / width)];
    const [y, colour] = [row % height, Math.floor(row / height)];
    const ring = (place, size) => Math.floor((510 * 4 ** number * place ** 2) / size ** 2);
    const rise = (times, place, size) => Math.floor((510 * times * place) / size);
    const rings = ring(y, height) + ring(x, width);
    const waves = rise(3 - colour, y, height) + rise(1 + colour, x, width) + 90 * number;
    return Math.floor((2 * wave(rings) + wave(waves)) / 3);
  });
}

// Confidence in each class of its logits; they add up to 1.
export function softmax(logits) {
  const highest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - highest));
  const sum = powers.reduce((one, other) => one + other, 0);
  return powers.map((power) => power / sum);
}
