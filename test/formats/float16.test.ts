import t from "tap";
import { fromFloat16, toBfloat16, toFloat16 } from "../../src/formats/float16.ts";

const every = Uint16Array.from({ length: 1 << 16 }, (_, half) => half);
const isNaNHalf = (half: number): boolean => (half & 0x7fff) > 0x7c00;

t.test("every half-precision number comes back", async (t) => {
  const back = toFloat16(fromFloat16(every));
  t.equal(every.filter((half) => (isNaNHalf(half) ? !isNaNHalf(back[half]!) : back[half] !== half)).length, 0);
});

t.test("values by IEEE 754", async (t) => {
  const known: [number, number][] = [
    [0x0000, 0],
    [0x8000, -0],
    [0x3c00, 1],
    [0xc000, -2],
    [0x7bff, 65504],
    [0x0400, 2 ** -14],
    [0x03ff, 1023 * 2 ** -24],
    [0x0001, 2 ** -24],
    [0x7c00, Infinity],
    [0xfc00, -Infinity],
    [0x3555, 0.333251953125],
  ];
  for (const [half, value] of known)
    t.ok(Object.is(fromFloat16(Uint16Array.of(half))[0], value), `${half.toString(16)} is ${value}`);
});

t.test("bfloat16 as torch casts it", async (t) => {
  const known: [number, number][] = [
    [0x3f800000, 0x3f80],
    [0x3f808000, 0x3f80],
    [0x3f818000, 0x3f82],
    [0x3f808001, 0x3f81],
    [0x7f7fffff, 0x7f80],
    [0xff7fffff, 0xff80],
    [0x7f800000, 0x7f80],
    [1, 0],
    [0x80018000, 0x8002],
  ];
  for (const [single, half] of known)
    t.equal(toBfloat16(new Float32Array(Uint32Array.of(single).buffer))[0], half, single.toString(16));
  t.ok((toBfloat16(Float32Array.of(NaN))[0]! & 0x7fff) > 0x7f80, "NaN stays one");
});

t.test(
  "what lies between two goes to the nearer, in the middle to the even one; what is too large becomes infinite",
  async (t) => {
    const values = fromFloat16(every);
    let wrong = 0;
    for (let half = 0; half < 0x7bff; half++) {
      const [low, high] = [values[half]!, values[half + 1]!];
      const middle = (low + high) / 2;
      const even = half % 2 === 0 ? half : half + 1;
      const near = middle * (1 - 2 ** -20);
      const far = middle * (1 + 2 ** -20);
      for (const sign of [1, -1]) {
        const bits = sign < 0 ? 0x8000 : 0;
        const got = toFloat16(Float32Array.of(sign * middle, sign * near, sign * far));
        if (got[0] !== (bits | even) || got[1] !== (bits | half) || got[2] !== (bits | (half + 1))) wrong++;
      }
    }
    t.equal(wrong, 0);
    t.same(
      [...toFloat16(Float32Array.of(65519, 65520, 1e30, -Infinity, 2 ** -25, 2 ** -26))],
      [0x7bff, 0x7c00, 0x7c00, 0xfc00, 0, 0],
    );
  },
);
