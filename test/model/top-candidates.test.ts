/** The candidates of a row on a device, in two levels, are those of a sort; logits full of equals. */
import t, { type Test } from "tap";
import { fromFloat16, toFloat16 } from "../../src/formats/float16.ts";
import { DataType, OnnxGraph } from "../../src/model/onnx-writer.ts";
import { candidatesByGroup, candidatesByPart, partsOf } from "../../src/model/top-candidates.ts";
import type { Device } from "../../src/runtime/device.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { Runtime } from "../../src/runtime/session.ts";
import { webgpuSkip } from "../support/devices.ts";
import { seededRandom } from "../support/model.ts";

const skip = webgpuSkip();
const K = 64;
const ROWS = 3;
const runtime = new Runtime();
t.teardown(() => runtime[Symbol.dispose]());

interface Answers {
  readonly logits: Float32Array;
  readonly ids: Int32Array;
  readonly probability: Float32Array;
}

function run(graph: OnnxGraph, given: Float32Array, vocabSize: number, device: Device = DEVICES.cpu): Answers {
  graph.output("top_logits", DataType.float, ["k", K]);
  graph.output("top_ids", DataType.int32, ["k", K]);
  graph.output("top_probability", DataType.float, ["k", 1]);
  using session = runtime.session(graph.encode(), { threads: 1, device });
  const [logits, ids, probability] = [new Float32Array(ROWS * K), new Int32Array(ROWS * K), new Float32Array(ROWS)];
  const outputs = {
    top_logits: runtime.tensor(logits, [ROWS, K]),
    top_ids: runtime.tensor(ids, [ROWS, K]),
    top_probability: runtime.tensor(probability, [ROWS, 1]),
  };
  using binding = session.binding({ given: runtime.tensor(given, [ROWS, vocabSize]) }, outputs);
  session.runNow(binding);
  return { logits, ids, probability };
}

function byPart(given: Float32Array, vocabSize: number, device?: Device): Answers {
  const graph = new OnnxGraph("by-part", "");
  graph.input("given", DataType.float, ["k", vocabSize]);
  // On WebGPU an output of a graph's own input would be none of its nodes'.
  graph.constant("nothing", DataType.float, [1], Float32Array.of(0));
  graph.node("Add", ["given", "nothing"], ["logits"]);
  candidatesByPart(graph, vocabSize, K);
  return run(graph, given, vocabSize, device);
}

function byGroup(
  given: Float32Array,
  vocabSize: number,
  type: typeof DataType.float | typeof DataType.float16,
): Answers {
  const graph = new OnnxGraph("by-group", "");
  graph.input("given", DataType.float, ["k", vocabSize]);
  graph.node("Cast", ["given"], ["logits"], { to: type });
  candidatesByGroup(graph, type, vocabSize, K);
  return run(graph, given, vocabSize);
}

/** Kernels without AVX2 add up a row in four sums only: 9e-6. */
const ROUNDING = 2e-5;

/** What a sort makes of a row: largest first, equals by id. */
function check(
  t: Test,
  given: Float32Array,
  vocabSize: number,
  { logits, ids, probability }: Answers,
  { orderOfEquals, within = ROUNDING }: { orderOfEquals: boolean; within?: number },
): void {
  for (let row = 0; row < ROWS; row++) {
    const values = given.subarray(row * vocabSize, (row + 1) * vocabSize);
    const order = [...values.keys()].sort((a, b) => values[b]! - values[a]! || a - b).slice(0, K);
    const found = ids.subarray(row * K, (row + 1) * K);
    t.same(
      [...logits.subarray(row * K, (row + 1) * K)],
      order.map((id) => values[id]),
    );
    t.same(
      [...found].map((id) => values[id]),
      order.map((id) => values[id]),
      "ids are those of the logits",
    );
    t.equal(new Set(found).size, K, "each once");
    if (orderOfEquals) t.same([...found], order);
    const sum = values.reduce((total, value) => total + Math.exp(value - values[order[0]!]!), 0);
    t.ok(Math.abs(1 / sum - probability[row]!) < within / sum + within / 1000, `${1 / sum} ${probability[row]}`);
  }
}

/** A vocabulary that is left whole, GPT-2's, one that needs padding, one that needs none. */
const VOCABULARIES = [1000, 50_257, 50_261, 50_259];
const random = seededRandom(3);
const logitsOf = (vocabSize: number): Float32Array =>
  fromFloat16(toFloat16(Float32Array.from({ length: ROWS * vocabSize }, () => Math.round(random() * 40) / 4)));

t.test("parts cover the vocabulary, and only few have padding", async (t) => {
  t.equal(partsOf(4096), null);
  for (let vocabSize = 4097; vocabSize < 260_000; vocabSize += 1009) {
    const { count, size, padding } = partsOf(vocabSize)!;
    if (count * size - padding !== vocabSize || size > 2048 || padding < 0 || padding >= count)
      t.fail(`${vocabSize}: ${count} x ${size} - ${padding}`);
  }
  t.same(partsOf(50_257), { count: 29, size: 1733, padding: 0 });
});

for (const vocabSize of VOCABULARIES) {
  t.test(`${vocabSize} logits`, async (t) => {
    const given = logitsOf(vocabSize);
    check(t, given, vocabSize, byPart(given, vocabSize), { orderOfEquals: true });
    check(t, given, vocabSize, byGroup(given, vocabSize, DataType.float), { orderOfEquals: false });
    check(t, given, vocabSize, byGroup(given, vocabSize, DataType.float16), { orderOfEquals: false, within: 2 ** -10 });
  });
}

t.test("on WebGPU", { skip }, async (t) => {
  const given = logitsOf(50_257);
  check(t, given, 50_257, byPart(given, 50_257, DEVICES.webgpu), { orderOfEquals: true });
});
