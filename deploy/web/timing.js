// Milliseconds of a network, as the browser's clock can tell them.

const KEPT = 50; // samples
const STEPS = 20; // of the clock, that a sample lasts at least: it is known to 5 %
const LONGEST_MS = 250; // of a sample, where a browser has made its clock coarse

// The step of performance.now() in milliseconds; browsers make it coarse, from 0.005 to 100.
export function clockStep() {
  const steps = [];
  for (let count = 0; count < 5; count++) {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    steps.push(now - start);
  }
  return Math.min(...steps);
}

// How many calls of about ``ms`` milliseconds a sample needs.
export function callsOfSample(ms, step) {
  const least = Math.min(STEPS * step, LONGEST_MS);
  return Math.max(Math.ceil(least / Math.max(ms, 0.01)), 1);
}

// The last KEPT samples.
export class Samples {
  #values = [];

  add(ms) {
    this.#values = [...this.#values, ms].slice(-KEPT);
  }

  clear() {
    this.#values = [];
  }

  get count() {
    return this.#values.length;
  }

  // Interpolated linearly between samples, as numpy.percentile does; null without samples.
  percentile(percent) {
    if (!this.count) return null;
    const sorted = [...this.#values].sort((one, other) => one - other);
    const place = (percent / 100) * (sorted.length - 1);
    const below = Math.floor(place);
    const above = Math.min(below + 1, sorted.length - 1);
    return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
  }
}
