/** IEEE 754 half precision for devices: JavaScript of Node 20 has no such array. */

const bits = new Uint32Array(1);
const number = new Float32Array(bits.buffer);

/** The nearest half-precision numbers as bit patterns, ties to even; what is too large becomes infinite. */
export function toFloat16(values: Float32Array): Uint16Array {
  return Uint16Array.from(values, halfBits);
}

function halfBits(value: number): number {
  number[0] = value;
  const word = bits[0]!;
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  // 65520 and above round to infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    const rounded = magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1);
    return sign | (rounded >>> 13);
  }
  // Subnormal: multiples of 2^-24; adding 0.5 makes fp32 round there, ties to even.
  number[0] = Math.abs(value) + 0.5;
  return sign | (bits[0]! - 0x3f000000);
}
