import t from "tap";
import type { CheckpointTensor } from "../../src/model/checkpoint.ts";
import { channelScales, LARGEST, writeIntegers } from "../../src/model/quantize.ts";
import { seededRandom } from "../support/model.ts";

/** A tensor in memory, handed out in chunks as a checkpoint does: each chunk's memory is used again for the next. */
function memoryTensor(values: Float32Array, shape: readonly [number, number]): CheckpointTensor {
  return {
    dtype: "F32",
    shape,
    sha256: "",
    async *chunks(maxBytes) {
      const chunk = new Float32Array(Math.floor(maxBytes / 4));
      for (let at = 0; at < values.length; at += chunk.length) {
        const part = values.subarray(at, at + chunk.length);
        chunk.set(part);
        yield chunk.subarray(0, part.length);
      }
    },
  };
}

async function quantized(
  tensor: CheckpointTensor,
  axis: 0 | 1,
  zeroPoint: 0 | 128 = 0,
): Promise<{ scales: Float32Array; integers: Int8Array; chunks: number }> {
  const scales = await channelScales(tensor, axis);
  const integers = new Int8Array(tensor.shape[0]! * tensor.shape[1]!).fill(-128);
  let chunks = 0;
  await writeIntegers(tensor, axis, scales, zeroPoint, (chunk, at) => {
    integers.set(
      chunk.map((byte) => byte - zeroPoint),
      at,
    );
    chunks++;
    return Promise.resolve();
  });
  return { scales, integers, chunks };
}

/** Normal-like values whose columns differ in size by up to 1000. */
function randomValues(rows: number, columns: number, seed: number): Float32Array {
  const random = seededRandom(seed);
  const sizes = Array.from({ length: columns }, () => 10 ** (3 * random() - 2));
  return Float32Array.from({ length: rows * columns }, (_, at) => (random() + random() - 1) * sizes[at % columns]!);
}

t.test("integers times scales are the values within half a scale, in the order [in, out]", async (t) => {
  const [rows, columns] = [70, 33];
  const values = randomValues(rows, columns, 1);
  const tensor = memoryTensor(values, [rows, columns]);
  for (const [axis, zeroPoint] of [
    [0, 0],
    [0, 128],
    [1, 0],
    [1, 128],
  ] as const) {
    const { scales, integers } = await quantized(tensor, axis, zeroPoint);
    const outputs = axis === 1 ? columns : rows;
    t.equal(scales.length, outputs);
    let worst = 0;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const [input, output] = axis === 1 ? [row, column] : [column, row];
        const error = values[row * columns + column]! - integers[input * outputs + output]! * scales[output]!;
        worst = Math.max(worst, Math.abs(error) / scales[output]!);
      }
    }
    t.ok(worst <= 0.5 + 1e-5, `axis ${axis}: ${worst} of a scale`);
    t.equal(Math.max(...integers), LARGEST);
    t.equal(Math.min(...integers), -LARGEST, "both signs have the same range");
  }
});

t.test("a tensor of many chunks gives what one chunk gives", async (t) => {
  const [rows, columns] = [8000, 300];
  const values = randomValues(rows, columns, 2);
  const byRows = await quantized(memoryTensor(values, [rows, columns]), 0);
  t.ok(byRows.chunks > columns, "more than one block of rows, each of which gives a chunk per column");
  const transposed = Float32Array.from(values, (_, at) => values[(at % rows) * columns + Math.floor(at / rows)]!);
  const byColumns = await quantized(memoryTensor(transposed, [columns, rows]), 1);
  t.same(byRows.scales, byColumns.scales);
  t.ok(byRows.integers.every((integer, at) => integer === byColumns.integers[at]));
});

t.test("a channel of zeros has scale 0 and integers 0; one huge value does not disturb other channels", async (t) => {
  const values = Float32Array.of(0, 1, 3e38, 0, -2, 1);
  const { scales, integers } = await quantized(memoryTensor(values, [2, 3]), 1);
  t.same([...scales], [0, Math.fround(2 / 127), Math.fround(Math.fround(3e38) / 127)]);
  t.same([...integers], [0, 64, 127, 0, -127, 0]);
});
