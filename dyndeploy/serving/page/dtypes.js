// Numbers of the protocol's datatypes as bytes and back. Little-endian, as the protocol and all machines with a browser.

const ARRAYS = {
  FP32: Float32Array,
  FP64: Float64Array,
  INT8: Int8Array,
  INT16: Int16Array,
  INT32: Int32Array,
  UINT8: Uint8Array,
  UINT16: Uint16Array,
  UINT32: Uint32Array,
  BOOL: Uint8Array,
};

/** Datatype -> bytes of a number. */
export const BYTES_OF = {
  ...Object.fromEntries(Object.entries(ARRAYS).map(([name, type]) => [name, type.BYTES_PER_ELEMENT])),
  FP16: 2,
  BF16: 2,
  INT64: 8,
  UINT64: 8,
};

/** Whether numbers of the datatype have fractions. */
export function isFloat(datatype) {
  return datatype.startsWith("FP") || datatype === "BF16";
}

/** An ArrayBuffer of these numbers. */
export function encode(datatype, values) {
  if (datatype in ARRAYS) return ARRAYS[datatype].from(values).buffer;
  if (datatype === "INT64") return BigInt64Array.from(values, (v) => BigInt(Math.trunc(v))).buffer;
  if (datatype === "UINT64") return BigUint64Array.from(values, (v) => BigInt(Math.trunc(v))).buffer;
  if (datatype === "FP16") return Uint16Array.from(values, halfOf).buffer;
  if (datatype === "BF16") return Uint16Array.from(values, brainOf).buffer;
  throw new Error(`${datatype} cannot be sent from this page.`);
}

/** The numbers in a buffer. */
export function decode(datatype, buffer) {
  if (datatype in ARRAYS) return new ARRAYS[datatype](buffer);
  if (datatype === "INT64") return Float64Array.from(new BigInt64Array(buffer), Number);
  if (datatype === "UINT64") return Float64Array.from(new BigUint64Array(buffer), Number);
  const half = new Uint16Array(buffer);
  if (datatype === "FP16") return Float32Array.from(half, fromHalf);
  const words = Uint32Array.from(half, (bits) => bits << 16);
  return new Float32Array(words.buffer);
}

const word = new DataView(new ArrayBuffer(4));

// To the nearest, ties to even.
function brainOf(value) {
  word.setFloat32(0, value);
  const bits = word.getUint32(0);
  if (Number.isNaN(value)) return 0x7fc0;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

function halfOf(value) {
  if (Number.isNaN(value)) return 0x7e00;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (size >= 65520) return sign | 0x7c00;
  if (size < 2 ** -14) return sign | even(size * 2 ** 24);
  const exponent = Math.min(Math.floor(Math.log2(size)), 15);
  const down = size < 2 ** exponent ? exponent - 1 : exponent; // log2 may round up to the next power
  return sign + ((down + 15) << 10) + even((size / 2 ** down - 1) * 1024); // a carry is the next exponent
}

function even(x) {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 ? floor + 1 : floor;
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -24 * fraction;
}
