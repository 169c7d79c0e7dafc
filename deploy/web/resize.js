// Resampling of 8-bit RGB with the arithmetic of OpenCV's cv2.resize, which deploy/classify.py
// uses, so that the network gets the same bytes here as there. A canvas resamples otherwise.
// Source: modules/imgproc/src/resize.cpp of OpenCV. Math.fround stands where OpenCV has a float.

const LINEAR_ONE = 1 << 11; // a weight of 1 in the fixed-point numbers of INTER_LINEAR

// (toHeight * toWidth * 3) bytes of a picture (height * width * 3): the mean of what falls into a
// pixel (INTER_AREA) where neither side grows, else linear interpolation (INTER_LINEAR).
export function resized(rgb, width, height, toWidth, toHeight) {
  if (width === toWidth && height === toHeight) return rgb;
  const shrinks = width >= toWidth && height >= toHeight;
  return (shrinks ? averaged : interpolated)(rgb, width, height, toWidth, toHeight);
}

function averaged(rgb, width, height, toWidth, toHeight) {
  const [scaleX, scaleY] = [scaleOf(width, toWidth), scaleOf(height, toHeight)];
  if (isWhole(scaleX) && isWhole(scaleY)) {
    return blockMeans(rgb, width, Math.round(scaleX), Math.round(scaleY), toWidth, toHeight);
  }
  const columns = areaTable(width, toWidth, scaleX);
  const rows = areaTable(height, toHeight, scaleY);
  return weightedMeans(rgb, width, columns, rows, toWidth, toHeight);
}

function scaleOf(size, toSize) {
  return 1 / (toSize / size); // as OpenCV computes it, with its rounding
}

function isWhole(scale) {
  return Math.abs(scale - Math.round(scale)) < Number.EPSILON;
}

function blockMeans(rgb, width, blockWidth, blockHeight, toWidth, toHeight) {
  const result = new Uint8Array(toWidth * toHeight * 3);
  const share = Math.fround(1 / (blockWidth * blockHeight));
  const isTwoByTwo = blockWidth === 2 && blockHeight === 2; // OpenCV rounds halves up there
  for (let at = 0; at < result.length; at++) {
    const pixel = Math.floor(at / 3);
    const left = (pixel % toWidth) * blockWidth;
    const top = Math.floor(pixel / toWidth) * blockHeight;
    let sum = 0;
    for (let y = top; y < top + blockHeight; y++) {
      const start = (y * width + left) * 3 + (at % 3);
      for (let from = start; from < start + 3 * blockWidth; from += 3) sum += rgb[from];
    }
    result[at] = isTwoByTwo ? (sum + 2) >> 2 : rounded(Math.fround(Math.fround(sum) * share));
  }
  return result;
}

// For each pixel of the result in turn, the pixels that it covers and their shares in it.
function areaTable(size, toSize, scale) {
  const table = [];
  const add = (to, from, share) => table.push({ to, from, share: Math.fround(share) });
  for (let to = 0; to < toSize; to++) {
    const start = to * scale;
    const end = start + scale;
    const cell = Math.min(scale, size - start);
    const last = Math.min(Math.floor(end), size - 1);
    const first = Math.min(Math.ceil(start), last);
    if (first - start > 1e-3) add(to, first - 1, (first - start) / cell);
    for (let from = first; from < last; from++) add(to, from, 1 / cell);
    if (end - last > 1e-3) add(to, last, Math.min(end - last, 1, cell) / cell);
  }
  return table;
}

function weightedMeans(rgb, width, columns, rows, toWidth, toHeight) {
  const result = new Uint8Array(toWidth * toHeight * 3);
  const sums = new Float32Array(toWidth * 3);
  const line = new Float32Array(toWidth * 3);
  rows.forEach(({ to, from, share }, index) => {
    sumColumns(rgb, from * width * 3, columns, line);
    const isFirst = index === 0 || rows[index - 1].to !== to;
    for (let at = 0; at < line.length; at++) {
      const part = Math.fround(share * line[at]);
      sums[at] = isFirst ? part : sums[at] + part;
    }
    if (index === rows.length - 1 || rows[index + 1].to !== to) {
      for (let at = 0; at < sums.length; at++) result[to * sums.length + at] = rounded(sums[at]);
    }
  });
  return result;
}

function sumColumns(rgb, start, columns, line) {
  line.fill(0);
  for (const { to, from, share } of columns) {
    for (let colour = 0; colour < 3; colour++) {
      line[3 * to + colour] += Math.fround(rgb[start + 3 * from + colour] * share);
    }
  }
}

function interpolated(rgb, width, height, toWidth, toHeight) {
  const result = new Uint8Array(toWidth * toHeight * 3);
  const columns = linearTable(width, toWidth).map((each) => clampedColumn(each, width));
  linearTable(height, toHeight).forEach(({ from, weights }, y) => {
    const upper = blendColumns(rgb, clamped(from, height) * width * 3, columns);
    const lower = blendColumns(rgb, clamped(from + 1, height) * width * 3, columns);
    for (let at = 0; at < upper.length; at++) {
      const above = (weights[0] * (upper[at] >> 4)) >> 16;
      const below = (weights[1] * (lower[at] >> 4)) >> 16;
      result[y * upper.length + at] = (above + below + 2) >> 2;
    }
  });
  return result;
}

// For each pixel of the result the first of the two pixels that it lies between, and their weights.
function linearTable(size, toSize) {
  const scale = scaleOf(size, toSize);
  return Array.from({ length: toSize }, (_, to) => {
    const place = Math.fround((to + 0.5) * scale - 0.5);
    const from = Math.floor(place);
    const rest = Math.fround(place - from);
    return { from, weights: [fixedPoint(Math.fround(1 - rest)), fixedPoint(rest)] };
  });
}

function fixedPoint(weight) {
  return rounded(weight * LINEAR_ONE);
}

// Beyond the first and the last column OpenCV repeats it with a weight of 1.
function clampedColumn({ from, weights }, width) {
  const isInside = from >= 0 && from < width - 1;
  return isInside ? { from, weights } : { from: clamped(from, width), weights: [LINEAR_ONE, 0] };
}

function clamped(at, size) {
  return Math.min(Math.max(at, 0), size - 1);
}

function blendColumns(rgb, start, columns) {
  const line = new Int32Array(columns.length * 3);
  columns.forEach(({ from, weights }, x) => {
    for (let colour = 0; colour < 3; colour++) {
      const at = start + 3 * from + colour;
      const right = weights[1] ? rgb[at + 3] * weights[1] : 0;
      line[3 * x + colour] = rgb[at] * weights[0] + right;
    }
  });
  return line;
}

// The nearest whole number, of two the even one; for numbers from 0 on.
export function rounded(number) {
  const nearest = Math.round(number);
  return nearest - number === 0.5 && nearest % 2 ? nearest - 1 : nearest;
}
