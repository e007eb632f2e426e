/**
 * The K largest logits of a row, in two levels where the row is long: a GPU's TopK grows faster than linearly with the
 * row.
 */
import { toFloat16 } from "../formats/float16.ts";
import type { FloatType } from "./graph-weights.ts";
import { DataType, type OnnxGraph } from "./onnx-writer.ts";

/** WebGPU sorts up to this many columns in one dispatch; 50,257 take 136 (ONNX Runtime's top_k.cc). */
const PART_COLUMNS = 2048;
/** WebGPU has int64 for indices only, so ids pass through fp32, which is exact up to this. */
export const MOST_IDS = 2 ** 24;
/** Rows up to this length are not split. */
const SHORT_ROW = 4096;

export interface Parts {
  readonly count: number;
  readonly size: number;
  /** Columns of -inf after the last, so that all parts have the same size. */
  readonly padding: number;
}

/** How to split a row of logits; null: not at all. Prefers a count without padding, which would copy all logits. */
export function partsOf(vocabSize: number): Parts | null {
  if (vocabSize <= SHORT_ROW) return null;
  const least = Math.ceil(vocabSize / PART_COLUMNS);
  for (let count = least; count <= 2 * least; count++)
    if (vocabSize % count === 0) return { count, size: vocabSize / count, padding: 0 };
  const size = Math.ceil(vocabSize / least);
  return { count: least, size, padding: least * size - vocabSize };
}

/**
 * logits f32 [k, V] -> top_logits f32 [k, K] descending, top_ids int32 [k, K], the same as top_ids_float, and
 * top_probability f32 [k, 1] of the likeliest. V <= MOST_IDS. Equal logits are in ascending order of id where TopK
 * keeps it (CPU, WebGPU).
 *
 * A part's candidates are in order of id, and so are the parts, so the second level keeps the order among equals.
 */
export function candidatesByPart(graph: OnnxGraph, vocabSize: number, candidates: number): void {
  const parts = partsOf(vocabSize);
  if (parts === null) return wholeRow(graph, vocabSize, candidates, DataType.float);
  const { count, size } = parts;
  const whole = padded(graph, "logits", parts, DataType.float);
  ints(graph, {
    candidates: [candidates],
    by_part: [-1, size],
    part_answers: [-1, count, candidates],
    finalists_shape: [-1, count * candidates],
  });
  ascending(graph, "columns", size);
  graph.constant(
    "first_ids",
    DataType.float,
    [1, count, 1],
    Float32Array.from({ length: count }, (_, part) => part * size),
  );
  graph.node("Reshape", [whole, "by_part"], ["logits_by_part"]);
  graph.node("TopK", ["logits_by_part", "candidates"], ["part_logits", "part_at"], SORTED);
  graph.node("Gather", ["columns", "part_at"], ["part_columns"], { axis: 0 });
  graph.node("Reshape", ["part_columns", "part_answers"], ["part_columns_by_row"]);
  graph.node("Add", ["part_columns_by_row", "first_ids"], ["part_ids"]);
  graph.node("Reshape", ["part_ids", "finalists_shape"], ["finalist_ids"]);
  graph.node("Reshape", ["part_logits", "finalists_shape"], ["finalist_logits"]);
  graph.node("TopK", ["finalist_logits", "candidates"], ["top_logits", "top_at"], SORTED);
  graph.node("GatherElements", ["finalist_ids", "top_at"], ["top_ids_float"], { axis: 1 });
  graph.node("Cast", ["top_ids_float"], ["top_ids"], { to: DataType.int32 });
  likeliest(graph, DataType.float);
}

/**
 * The same for CUDA, for logits of any type. CUDA's TopK uses one thread block per row, and its ReduceMax takes
 * milliseconds. Columns `size` apart form a group. The K largest logits are in the K groups with the largest maxima,
 * since each of these groups has a larger number than any other group. The order among equals is CUDA's own, and
 * deterministic.
 */
export function candidatesByGroup(graph: OnnxGraph, type: FloatType, vocabSize: number, candidates: number): void {
  const parts = partsOf(vocabSize);
  if (parts === null) return wholeRow(graph, vocabSize, candidates, type);
  const { count, size } = parts;
  const whole = padded(graph, "logits", parts, type);
  const members = Array.from({ length: count }, (_, part) => `members.${part}`);
  ints(graph, { candidates: [candidates], as_column: [-1, candidates, 1], finalists_shape: [-1, candidates * count] });
  graph.constant(
    "first_ids",
    DataType.int64,
    [1, 1, count],
    BigInt64Array.from({ length: count }, (_, part) => BigInt(part * size)),
  );
  graph.node("Split", [whole], members, { axis: 1, num_outputs: count });
  graph.node("Max", members, ["group_maxima"]);
  graph.node("TopK", ["group_maxima", "candidates"], ["group_logits", "group_at"], SORTED);
  graph.node("Reshape", ["group_at", "as_column"], ["group_column"]);
  graph.node("Add", ["group_column", "first_ids"], ["member_ids"]);
  graph.node("Reshape", ["member_ids", "finalists_shape"], ["finalist_ids"]);
  graph.node("GatherElements", [whole, "finalist_ids"], ["finalist_logits"], { axis: 1 });
  graph.node("TopK", ["finalist_logits", "candidates"], [asFloat(graph, type, "top_logits"), "top_at"], SORTED);
  graph.node("GatherElements", ["finalist_ids", "top_at"], ["top_ids_wide"], { axis: 1 });
  graph.node("Cast", ["top_ids_wide"], ["top_ids"], { to: DataType.int32 });
  likeliest(graph, type);
}

const SORTED = { axis: -1, largest: 1, sorted: 1 };

function wholeRow(graph: OnnxGraph, vocabSize: number, candidates: number, type: FloatType): void {
  ints(graph, { candidates: [candidates] });
  ascending(graph, "columns", vocabSize);
  graph.node("TopK", ["logits", "candidates"], [asFloat(graph, type, "top_logits"), "top_at"], SORTED);
  graph.node("Gather", ["columns", "top_at"], ["top_ids_float"], { axis: 0 });
  graph.node("Cast", ["top_ids_float"], ["top_ids"], { to: DataType.int32 });
  likeliest(graph, type);
}

/** The likeliest token's probability, gathered by id: a maximum over the row would give the same number. */
function likeliest(graph: OnnxGraph, type: FloatType): void {
  graph.constant("first", DataType.int32, [1], Int32Array.of(0));
  graph.node("Gather", ["top_ids", "first"], ["likeliest"], { axis: 1 });
  graph.node("Softmax", ["logits"], ["probabilities"], { axis: -1 });
  graph.node("GatherElements", ["probabilities", "likeliest"], [asFloat(graph, type, "top_probability")], { axis: 1 });
}

/** Returns the name to give a tensor of that type so that `output` is its fp32 cast; `output` itself if it is fp32. */
function asFloat(graph: OnnxGraph, type: FloatType, output: string): string {
  if (type === DataType.float) return output;
  graph.node("Cast", [`${output}.raw`], [output], { to: DataType.float });
  return `${output}.raw`;
}

function padded(graph: OnnxGraph, logits: string, { padding }: Parts, type: FloatType): string {
  if (padding === 0) return logits;
  ints(graph, { pads: [0, 0, 0, padding] });
  if (type === DataType.float) graph.constant("never", type, [], Float32Array.of(-Infinity));
  else graph.constant("never", type, [], toFloat16(Float32Array.of(-Infinity)));
  graph.node("Pad", [logits, "pads", "never"], ["logits_padded"]);
  return "logits_padded";
}

function ints(graph: OnnxGraph, constants: Readonly<Record<string, readonly number[]>>): void {
  for (const [name, values] of Object.entries(constants))
    graph.constant(name, DataType.int64, [values.length], BigInt64Array.from(values, BigInt));
}

function ascending(graph: OnnxGraph, name: string, length: number): void {
  graph.constant(
    name,
    DataType.float,
    [length],
    Float32Array.from({ length }, (_, index) => index),
  );
}
