/**
 * node-llama-cpp, a Node developer's usual choice, as one of the engines compared. It has no prefixes: plain prompts.
 *
 *     tsx bench/peers/node-llama-cpp.ts MODEL.gguf
 *
 * Rows are its sequences, joined by its own batching. It is installed only beside this file (see README.md here), so
 * the part in use is typed here.
 */
import { promptIds } from "../support/gpt2.ts";
import { median } from "../support/report.ts";
import { CONTEXT, serveWithoutPrefixes, THREADS, UNCOUNTED } from "./protocol.ts";

interface Sequence {
  readonly nextTokenIndex: number;
  evaluate(
    tokens: readonly number[],
    options: { temperature: number; yieldEogToken: boolean },
  ): AsyncGenerator<number, void, void>;
  eraseContextTokenRanges(ranges: { start: number; end: number }[]): Promise<void>;
}
interface Context {
  getSequence(): Sequence;
}
interface Model {
  createContext(options: {
    sequences: number;
    contextSize: number;
    batchSize: number;
    threads: number;
    flashAttention: boolean;
  }): Promise<Context>;
}
interface NodeLlamaCpp {
  getLlama(options: {
    gpu: false;
    build: "never";
    maxThreads: number;
    logLevel: "error";
    progressLogs: boolean;
  }): Promise<{ loadModel(options: { modelPath: string }): Promise<Model> }>;
}

const ROWS = 32;
/** Ids that exist in every model. */
const VOCABULARY = 4000;
const packageName = "node-llama-cpp";
const library = (await import(packageName)) as NodeLlamaCpp;
const llama = await library.getLlama({
  gpu: false,
  build: "never",
  maxThreads: THREADS,
  logLevel: "error",
  progressLogs: false,
});
const model = await llama.loadModel({ modelPath: process.argv[2]! });
const context = await model.createContext({
  sequences: ROWS,
  contextSize: 512,
  batchSize: 512,
  threads: THREADS,
  flashAttention: true,
});
const sequences = Array.from({ length: ROWS }, () => context.getSequence());
const GREEDY = { temperature: 0, yieldEogToken: true };

/**
 * A step ends when every row has its next token. Between turns the prompt stays in the cache, except for its last
 * token.
 */
async function decode(rows: number, units: number): Promise<number> {
  const prompt = CONTEXT - UNCOUNTED - Math.round(units / 2);
  const counts = new Int32Array(rows);
  const ends: number[] = [];
  const row = async (sequence: Sequence, index: number): Promise<void> => {
    const ids = [...promptIds(prompt, index + 1, VOCABULARY)];
    const kept = Math.min(sequence.nextTokenIndex, prompt - 1);
    await sequence.eraseContextTokenRanges([{ start: kept, end: sequence.nextTokenIndex }]);
    const tokens = sequence.evaluate(ids.slice(kept), GREEDY);
    while (counts[index]! <= UNCOUNTED + units) {
      await tokens.next();
      counts[index]!++;
      if (ends.length < Math.min(...counts)) ends.push(performance.now() / 1000);
    }
    await tokens.return();
  };
  await Promise.all(sequences.slice(0, rows).map(row));
  return median(ends.slice(UNCOUNTED + 1).map((end, step) => end - ends[UNCOUNTED + step]!)) * units;
}

async function prefill(tokens: number, units: number): Promise<number> {
  const [sequence] = sequences;
  const seconds: number[] = [];
  for (let unit = -1; unit < units; unit++) {
    await sequence!.eraseContextTokenRanges([{ start: 0, end: sequence!.nextTokenIndex }]);
    const started = performance.now();
    const answer = sequence!.evaluate([...promptIds(tokens, unit + 2, VOCABULARY)], GREEDY);
    await answer.next();
    if (unit >= 0) seconds.push((performance.now() - started) / 1000);
    await answer.return();
  }
  await sequence!.eraseContextTokenRanges([{ start: 0, end: sequence!.nextTokenIndex }]);
  return median(seconds) * units;
}

await serveWithoutPrefixes(decode, prefill);
process.exit(0);
