/** IEEE 754 half precision and bfloat16: Node 20 has no Float16Array. */

/** fp32 bits of 2^-14, the smallest normal half, and of 65520, from which numbers round to infinity. */
const [LEAST_NORMAL, TOO_LARGE] = [0x38800000, 0x477ff000];
const bits = new Uint32Array(1);
const number = new Float32Array(bits.buffer);
/** Built on first use. */
let values: Float32Array | null = null;

/** The nearest half-precision numbers as bit patterns, ties to even; overflow becomes infinity. */
export function toFloat16(singles: Float32Array): Uint16Array {
  // Int32Array, because V8 represents uint32 values from 2^31 up as floating-point numbers.
  const words = new Int32Array(singles.buffer, singles.byteOffset, singles.length);
  const halves = new Uint16Array(singles.length);
  for (let index = 0; index < halves.length; index++) {
    const word = words[index]!;
    const magnitude = word & 0x7fffffff;
    // The common case: normal in half precision too.
    halves[index] =
      magnitude >= LEAST_NORMAL && magnitude < TOO_LARGE
        ? ((word >>> 16) & 0x8000) | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13)
        : otherBits(word);
  }
  return halves;
}

/**
 * The nearest bfloat16 numbers (upper halves of fp32) as bit patterns, ties to even. NaN payloads are unspecified, as
 * in torch.
 */
export function toBfloat16(singles: Float32Array): Uint16Array {
  const words = new Int32Array(singles.buffer, singles.byteOffset, singles.length);
  const halves = new Uint16Array(singles.length);
  for (let index = 0; index < halves.length; index++) {
    const word = words[index]!;
    halves[index] = (word & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return halves;
}

/** Decodes half-precision bit patterns; exact. */
export function fromFloat16(halves: Uint16Array): Float32Array {
  const values = float16Values();
  const singles = new Float32Array(halves.length);
  for (let index = 0; index < singles.length; index++) singles[index] = values[halves[index]!]!;
  return singles;
}

/** Lookup table from bit pattern to value, for loops that convert while reordering. */
export function float16Values(): Float32Array {
  return (values ??= Float32Array.from({ length: 1 << 16 }, (_, half) => valueOf(half)));
}

/** @param word bits of an fp32 number that is not normal in half precision */
function otherBits(word: number): number {
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= TOO_LARGE) return sign | 0x7c00;
  // Subnormal: multiples of 2^-24; adding 0.5 makes fp32 round there, ties to even.
  bits[0] = magnitude;
  number[0] = number[0]! + 0.5;
  return sign | (bits[0] - 0x3f000000);
}

function valueOf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const [exponent, fraction] = [(half >>> 10) & 31, half & 1023];
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}
