/**
 * Finds out by running them whether this processor's kernels multiply 8-bit integers exactly.
 *
 * ONNX Runtime multiplies unsigned activations by signed weights with whatever the processor has. VNNI, AMX and ARM's
 * instructions are exact. AVX2 and AVX-512 without VNNI add two products in saturating 16 bits (vpmaddubsw: 2 * 255 *
 * 127 > 32,767), so large values silently give wrong sums. There, unsigned weights are first widened to 16 bits
 * (vpmaddwd), which is exact on every processor but leaves VNNI and AMX unused. So the weights' form is chosen by a
 * trial, not by the processor's name.
 */
import { PrecisionError } from "../errors.ts";
import { Runtime, type Session } from "../runtime/session.ts";
import { integerType, ZERO_POINT, type IntegerArithmetic } from "./graph-weights.ts";
import { linearLayers } from "./linear.ts";
import { DataType, OnnxGraph } from "./onnx-writer.ts";
import { LARGEST } from "./quantize.ts";
import { skippablePart } from "./skipped-part.ts";

/** Size of the check's layer. Its sums stay below 2^24, so they are exact in fp32. */
const [INPUTS, OUTPUTS] = [512, 48];
/** Batch sizes to try: kernels differ for one row, for a few, and beyond one block. */
const ROWS = [1, 7, 33];

/**
 * The faster of the two forms that is exact on this processor.
 * @throws PrecisionError where neither is, OrtError
 */
export async function exactIntegers(): Promise<IntegerArithmetic> {
  using runtime = new Runtime();
  if ((await inexactSum(runtime, "int8-u8s8")) === null) return "int8-u8s8";
  const sum = await inexactSum(runtime, "int8-u8u8");
  if (sum === null) return "int8-u8u8";
  throw new PrecisionError(
    "int8",
    `ONNX Runtime's 8-bit products are not exact on this processor (a sum of ${sum.expected} comes out as ${sum.computed})`,
  );
}

/**
 * x f32 [rows, 512], asked bool [1] -> plain, inner f32 [rows, 48]: the same linear layer as a block of gpt2-graph.ts
 * has it, and inside a subgraph, as the head has it. Scales cancel out: the outputs are the integer sums.
 */
export function integerCheck(arithmetic: IntegerArithmetic): Uint8Array {
  const graph = new OnnxGraph("integers", "");
  graph.input("x", DataType.float, ["rows", INPUTS]);
  graph.input("asked", DataType.int32, [1]);
  graph.output("plain", DataType.float, ["rows", OUTPUTS]);
  graph.output("inner", DataType.float, ["rows", OUTPUTS]);
  const zeroPoint = arithmetic === "int8-u8u8" ? ZERO_POINT : 0;
  const integers = Uint8Array.from(
    { length: INPUTS * OUTPUTS },
    (_, at) => zeroPoint + weightAt(Math.floor(at / OUTPUTS), at % OUTPUTS),
  );
  for (const weight of ["block", "head"]) {
    graph.constant(`${weight}.integers`, integerType(arithmetic), [INPUTS, OUTPUTS], integers);
    graph.constant(`${weight}.scales`, DataType.float, [OUTPUTS], new Float32Array(OUTPUTS).fill(LARGEST));
  }
  linearLayers(graph, arithmetic).conv1d("x", "block", "plain");

  const inner = new OnnxGraph("inner", "");
  inner.node("Identity", ["x"], ["inner.x"]);
  linearLayers(inner, arithmetic, "inner.").head("inner.x", "head", "inner.inner");
  graph.node("Cast", ["asked"], ["is_asked"], { to: DataType.bool });
  skippablePart(graph, "is_asked", inner, "inner.", "rows", [{ name: "inner", type: DataType.float, dims: OUTPUTS }]);
  return graph.encode();
}

/** The first sum that comes out wrong, or null if all are exact. */
export async function inexactSum(
  runtime: Runtime,
  arithmetic: IntegerArithmetic,
  threads = 1,
): Promise<{ readonly expected: number; readonly computed: number } | null> {
  using session = runtime.session(integerCheck(arithmetic), { threads });
  for (const rows of ROWS) {
    for (const outputs of await computedSums(runtime, session, rows)) {
      for (const [at, computed] of outputs.entries()) {
        const expected = exactSum(Math.floor(at / OUTPUTS), at % OUTPUTS);
        if (computed !== expected) return { expected, computed };
      }
    }
  }
  return null;
}

async function computedSums(runtime: Runtime, session: Session, rows: number): Promise<readonly Float32Array[]> {
  using x = runtime.tensor(
    Float32Array.from({ length: rows * INPUTS }, (_, at) => sign(Math.floor(at / INPUTS), at % INPUTS)),
    [rows, INPUTS],
  );
  using asked = runtime.tensor(Int32Array.of(1), [1]);
  using plain = runtime.tensor(new Float32Array(rows * OUTPUTS), [rows, OUTPUTS]);
  using inner = runtime.tensor(new Float32Array(rows * OUTPUTS), [rows, OUTPUTS]);
  using binding = session.binding({ x, asked }, { plain, inner });
  await session.run(binding);
  return [plain.data, inner.data];
}

/** Activations are the extremes, bytes 255 and 1; weights have the largest magnitude. */
function exactSum(row: number, output: number): number {
  let sum = 0;
  for (let input = 0; input < INPUTS; input++) sum += LARGEST * sign(row, input) * weightAt(input, output);
  return sum;
}

const weightAt = (input: number, output: number): number => LARGEST * sign(output, input);

/** Lines of equal signs, which reach the largest sums; of pairs that cancel out; and of mixtures. */
function sign(line: number, at: number): 1 | -1 {
  switch (line % 4) {
    case 0:
      return 1;
    case 1:
      return -1;
    case 2:
      return at % 2 === 0 ? 1 : -1;
    default:
      // Bits of a multiplicative hash (Knuth), as good as random here.
      return (Math.imul(at * 61 + line, 2654435761) >>> 16) % 2 === 0 ? 1 : -1;
  }
}
