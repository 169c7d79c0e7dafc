// From a file or a camera to the network's input, with the same steps as deploy/classify.py: turned
// as EXIF says, transparent parts white, the centre cut out (or all stretched), brought to size.

import { resized, rounded } from "./resize.js";

const MOST_BYTES = 100e6; // of a file
const MOST_PIXELS = 1e8; // browsers and phones have little memory: 4 bytes a pixel, twice
const STRIP_PIXELS = 1 << 22; // drawn at once; Safari's canvases have at most four times as many

// An ImageBitmap of a file, turned upright, with its colours as they are stored. Throws an Error
// that says why there is none.
export async function decoded(file) {
  if (file.size > MOST_BYTES) {
    throw new Error(`${file.name} has ${grouped(file.size)} bytes; at most ${grouped(MOST_BYTES)}`);
  }
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => {
    throw new Error(
      `${file.name} is no picture that this browser can read; expected a JPEG, PNG, WebP or GIF`,
    );
  });
  refuseTooMany(bitmap.width, bitmap.height, file.name);
  return bitmap;
}

export function refuseTooMany(width, height, name) {
  if (width * height <= MOST_PIXELS) return;
  const pixels = `${grouped(width)} x ${grouped(height)} pixels`;
  throw new Error(`${name} has ${pixels}; at most ${grouped(MOST_PIXELS)} in all`);
}

function grouped(number) {
  return number.toLocaleString("en");
}

// The network's input as RGB bytes (height * width * 3) of a picture: { source, width, height },
// where ``source`` is what a canvas can draw. ``model`` is { height, width, stretch }.
export function fitted(picture, model) {
  const part = model.stretch
    ? { left: 0, top: 0, width: picture.width, height: picture.height }
    : centre(picture, model);
  const rgb = pixelsOf(picture.source, part);
  return resized(rgb, part.width, part.height, model.width, model.height);
}

// The largest part in the centre that has the shape of the input.
function centre({ width, height }, model) {
  const scale = Math.min(height / model.height, width / model.width);
  const part = {
    width: Math.max(rounded(model.width * scale), 1),
    height: Math.max(rounded(model.height * scale), 1),
  };
  const left = Math.floor((width - part.width) / 2);
  return { ...part, left, top: Math.floor((height - part.height) / 2) };
}

// RGB bytes (height * width * 3) of a part, drawn in strips: a canvas is limited in size.
function pixelsOf(source, { left, top, width, height }) {
  const rows = Math.min(Math.max(Math.floor(STRIP_PIXELS / width), 1), height);
  const canvas = Object.assign(document.createElement("canvas"), { width, height: rows });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  const rgb = new Uint8Array(width * height * 3);
  for (let row = 0; row < height; row += rows) {
    const count = Math.min(rows, height - row);
    context.clearRect(0, 0, width, rows);
    context.drawImage(source, left, top + row, width, count, 0, 0, width, count);
    onWhite(context.getImageData(0, 0, width, count).data, rgb, row * width * 3);
  }
  return rgb;
}

function onWhite(rgba, rgb, start) {
  for (let from = 0, to = start; from < rgba.length; from += 4) {
    const opacity = rgba[from + 3];
    for (let colour = 0; colour < 3; colour++) {
      const shade = Math.floor((rgba[from + colour] * opacity + 127) / 255);
      rgb[to++] = shade + 255 - opacity;
    }
  }
}

// (3 * height * width) float32 in 0-255, one colour after the other, of RGB bytes.
export function planes(rgb) {
  const pixels = rgb.length / 3;
  return Float32Array.from(rgb, (_, at) => rgb[3 * (at % pixels) + Math.floor(at / pixels)]);
}
