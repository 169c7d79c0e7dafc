// What a model's file says of it: the classes, the size and the preprocessing of its input, and
// the logits that it should return. deploy/classify.py reads the same.
//
// ONNX Runtime Web does not give a file's metadata, so the protobuf message is read here; the
// numbers of its fields are those of onnx.proto.

const FIELDS = { graph: 7, metadata: 14, nodes: 1, constants: 5, inputs: 11, operator: 4, type: 2 };
const FLOAT16 = 10; // of TensorProto.DataType
const UNDERSTOOD = { layout: "NCHW", channels: "RGB", type: "float32", range: [0, 255] };
const MOST_PIXELS = 4096; // a side of the network's input
const QUANTIZES = /^(QuantizeLinear|DequantizeLinear|QLinear\w+)$/;
export const SAMPLES = 4; // pictures whose logits are the metadata "expected"

// { classes, height, width, stretch, expected, precision } of an ONNX file's bytes. ``expected`` is
// null or { logits, tolerance }: SAMPLES rows, and percent of them. Throws an Error that says why
// the file is no model of this pipeline.
export function describe(file) {
  const { metadata, shape, precision } = readModel(file);
  const classes = parsed(metadata, "classes");
  if (!isList(classes, (name) => typeof name === "string")) {
    throw foreign("its metadata 'classes' is not a list of names");
  }
  const input = parsed(metadata, "input");
  const isUnderstood = ([key, value]) => JSON.stringify(input?.[key]) === JSON.stringify(value);
  if (!Object.entries(UNDERSTOOD).every(isUnderstood)) {
    throw foreign(`its input is not ${JSON.stringify(UNDERSTOOD)}`);
  }
  const { size, resize = "crop" } = input;
  const isSide = (side) => Number.isInteger(side) && side >= 1 && side <= MOST_PIXELS;
  if (!isList(size, isSide) || size.length !== 2 || String(shape) !== String([3, ...size])) {
    throw foreign(`its input's 'size' is ${size}, but the network takes ${shape}`);
  }
  if (!["crop", "stretch"].includes(resize)) {
    throw foreign(`its input's 'resize' is ${resize}, neither crop nor stretch`);
  }
  const [height, width] = size;
  const expected = expectedOf(metadata, classes.length);
  return { classes, height, width, stretch: resize === "stretch", expected, precision };
}

function expectedOf(metadata, classes) {
  if (!metadata.has("expected")) return null;
  const expected = parsed(metadata, "expected");
  const isRow = (row) => isList(row, Number.isFinite) && row.length === classes;
  const { logits, tolerance } = expected ?? {};
  if (!isList(logits, isRow) || logits.length !== SAMPLES || !(tolerance >= 0)) {
    throw foreign(`its metadata 'expected' is not ${SAMPLES} x ${classes} logits and a limit`);
  }
  return expected;
}

function isList(value, isRight) {
  return Array.isArray(value) && value.length > 0 && value.every(isRight);
}

function parsed(metadata, key) {
  if (!metadata.has(key)) throw foreign(`it has no metadata '${key}'`);
  try {
    return JSON.parse(metadata.get(key));
  } catch {
    throw foreign(`its metadata '${key}' is not JSON`);
  }
}

function foreign(reason) {
  return new Error(
    `is not a model of this pipeline: ${reason}; expected an .onnx file that its stages export ` +
      "or quantize wrote, copied whole",
  );
}

function readModel(file) {
  try {
    const [graph] = nested(file, FIELDS.graph);
    if (!graph) throw new RangeError("no graph");
    const entries = nested(file, FIELDS.metadata);
    const metadata = new Map(entries.map((entry) => [text(entry, 1), text(entry, 2)]));
    const dimensions = nested(graph, FIELDS.inputs, 2, 1, 2, 1); // type, tensor_type, shape, dim
    const shape = dimensions.flatMap((each) => numbers(each, 1)); // named ones have none
    return { metadata, shape, precision: precisionOf(graph) };
  } catch {
    throw foreign("it is damaged, or no ONNX file");
  }
}

function precisionOf(graph) {
  const operators = nested(graph, FIELDS.nodes).map((node) => text(node, FIELDS.operator));
  if (operators.some((name) => QUANTIZES.test(name))) return "INT8";
  const constants = nested(graph, FIELDS.constants);
  const isHalf = (constant) => numbers(constant, FIELDS.type).includes(FLOAT16);
  return constants.some(isHalf) ? "FP16" : "FP32";
}

// The contents of the fields with the last number, in fields with the first, and so on.
function nested(message, ...path) {
  return path.reduce((messages, wanted) => messages.flatMap((each) => contents(each, wanted)), [
    message,
  ]);
}

function contents(message, wanted) {
  return fieldsOf(message)
    .filter(({ number, content }) => number === wanted && content)
    .map(({ content }) => content);
}

function numbers(message, wanted) {
  return fieldsOf(message)
    .filter(({ number, content }) => number === wanted && !content)
    .map(({ value }) => value);
}

function text(message, wanted) {
  const [content] = contents(message, wanted);
  return content ? new TextDecoder("utf-8", { fatal: true }).decode(content) : "";
}

// { number, value, content } of each field: of a whole number its value, of strings and messages
// their bytes. Throws RangeError when the message is not well-formed; the encoding is described on
// https://protobuf.dev/programming-guides/encoding/.
function fieldsOf(message) {
  const fields = [];
  for (let at = 0; at < message.length; ) {
    const tag = varint(message, at);
    const [number, wireType] = [Math.floor(tag.value / 8), tag.value % 8];
    if (number === 0 || ![0, 1, 2, 5].includes(wireType)) throw new RangeError("not protobuf");
    const head = wireType === 0 || wireType === 2 ? varint(message, tag.end) : { end: tag.end };
    const length = { 0: 0, 1: 8, 2: head.value, 5: 4 }[wireType];
    at = head.end + length;
    if (at > message.length) throw new RangeError("cut short");
    const content = wireType === 2 ? message.subarray(head.end, at) : null;
    fields.push({ number, value: head.value, content });
  }
  return fields;
}

// The number that starts at a byte, seven bits a byte, and where it ends.
function varint(message, start) {
  let value = 0;
  for (let at = start; at < start + 10; at++) {
    if (at >= message.length) throw new RangeError("cut short");
    value += (message[at] % 128) * 128 ** (at - start);
    if (message[at] < 128) return { value, end: at + 1 };
  }
  throw new RangeError("a varint has at most 10 bytes");
}
