/**
 * GPT-2 on a device with a stream. Everything is at fixed addresses, each step size is one captured graph, and this
 * thread is free while the device works. Each step uploads one block of inputs and downloads one block of answers.
 */
import type { Answers, ModelRunner, PromptChunk, StepOutput } from "../../engine/runner.ts";
import { callModel, runModel } from "../../errors.ts";
import type { FoldInput, KvTensor, ModelShape } from "../../kv.ts";
import { Disposables } from "../../runtime/disposables.ts";
import type { Runtime } from "../../runtime/session.ts";
import type { StreamedDevice } from "../../runtime/stream-device.ts";
import { candidatesOf, SOFT_ID } from "../gpt2-graph.ts";
import { floatType } from "../graph-weights.ts";
import type { RunnerOptions } from "../gpt2-runner.ts";
import type { PrefixBankStats } from "../prefix-bank.ts";
import { PagedKvCache } from "./kv-cache.ts";
import { packGraph } from "./pack-graph.ts";
import { pagedLayout } from "./layout.ts";
import { Steps, type Bucket, type FedRow, type Step } from "./steps.ts";

/**
 * Sizes of prompt runs, in tokens; longer prompts are fed in chunks. Not below 32: attention over pages may take another
 * kernel there (WebGPU's does), and a short prompt's bits would depend on whether others share its run.
 */
const PROMPT_TOKENS = [32, 64, 128, 256, 512];
/** Maximum prompts per run. */
const PROMPTS = 32;
/** Context lengths at which captured steps are tested, on both sides of a block boundary. */
const TRIED_PASTS = [3, 250, 270];

export type PagedRunnerOptions = RunnerOptions & { readonly device: StreamedDevice };

export interface GraphStats {
  /** Step sizes replayed as one captured graph. */
  readonly captured: number;
  /** Step sizes that could not be captured, and why. */
  readonly eager: readonly { readonly size: string; readonly reason: string }[];
}

/** What a step size is tried with once it is captured. */
interface Trial {
  readonly step: Step;
  readonly size: string;
  /** Tokens of the longest row. */
  readonly length: number;
  /** @param past the row's context length, of which the others are at most a few tokens short */
  readonly rows: (past: number) => FedRow[];
}

export class PagedRunner implements ModelRunner {
  readonly shape: ModelShape;
  readonly slots: number;
  readonly longestChunk: number;
  readonly promptsAtOnce: number;
  readonly chunkingChangesBits = true;
  /** Batch-invariant, every run has the size that it would have alone: sizes decide on kernels. */
  readonly rowsChangeBits: boolean | null;
  readonly #cache: PagedKvCache;
  readonly #steps: Steps;
  /** Decode steps by rows and prompts by tokens, ascending. */
  readonly #decodes: readonly Step[];
  readonly #prompts: readonly Step[];
  /** Runs of several prompts. */
  readonly #together: readonly Step[];
  readonly #scores: readonly Step[];
  readonly #softs: readonly Step[];
  readonly #owned = new Disposables();
  readonly #eager: { size: string; reason: string }[] = [];

  /**
   * @throws OrtError when the graph cannot be loaded, CudaError when the device cannot be used or runs out of memory;
   * all its memory is freed
   */
  static async open(runtime: Runtime, options: PagedRunnerOptions): Promise<PagedRunner> {
    const runner = new PagedRunner(runtime, options);
    try {
      await runner.#capture();
      return runner;
    } catch (error) {
      await runner.close();
      throw error;
    }
  }

  private constructor(runtime: Runtime, options: PagedRunnerOptions) {
    const { device, shape, slots, precision, bankBytes, modelPath, batchInvariant = false } = options;
    this.shape = shape;
    this.slots = slots;
    this.rowsChangeBits = batchInvariant ? false : null;
    const { transfers } = runtime;
    const count = (direction: "up" | "down", bytes: number): void => void (transfers[direction] += bytes);
    try {
      const stream = this.#owned.use(device.open());
      const model = this.#owned.use(stream.load(runtime, modelPath, device));
      // Row `slots` is for folding, the next one for padding.
      const layout = pagedLayout(shape, floatType(precision), slots + 2);
      this.#cache = new PagedKvCache(
        stream,
        this.#owned.use(stream.load(runtime, packGraph(layout), device)),
        layout,
        bankBytes,
        count,
      );
      const tokens = PROMPT_TOKENS.filter((length, index) => index === 0 || length <= shape.positions);
      this.longestChunk = Math.min(shape.positions, tokens.at(-1)!);
      this.promptsAtOnce = batchInvariant ? 1 : Math.min(PROMPTS, slots);
      const most = {
        tokens: Math.max(slots, tokens.at(-1)!),
        rows: Math.max(slots, this.promptsAtOnce + 1),
        outputs: Math.max(slots, tokens.at(-1)!),
      };
      this.#steps = this.#owned.use(
        new Steps({
          device: stream,
          model,
          cache: this.#cache,
          candidates: candidatesOf(shape),
          most,
          padRow: slots + 1,
          count,
        }),
      );
      const prompt = (length: number, more: Partial<Bucket>): Step =>
        this.#steps.prepare({
          tokens: length,
          rows: 2,
          outputs: 1,
          answered: "rows",
          longest: length,
          soft: false,
          ...more,
        });
      this.#decodes = (batchInvariant ? [slots] : rowBuckets(slots)).map((rows) =>
        this.#steps.prepare({ tokens: rows, rows, outputs: rows, answered: "rows", longest: 1, soft: false }),
      );
      this.#prompts = tokens.map((length) => prompt(length, {}));
      this.#together =
        this.promptsAtOnce === 1
          ? []
          : tokens.map((length) => prompt(length, { rows: this.promptsAtOnce + 1, outputs: this.promptsAtOnce }));
      this.#scores = tokens.map((length) => prompt(length, { outputs: length, answered: "tokens" }));
      this.#softs = tokens.map((length) => prompt(length, { soft: true }));
    } catch (error) {
      this.#owned[Symbol.dispose]();
      throw error;
    }
  }

  loadPrefix(row: number, prefix: KvTensor): void {
    callModel(() => this.#cache.loadPrefix(row, prefix));
  }

  copyRow(from: number, to: number, length: number, start: number): void {
    callModel(() => this.#cache.copyRow(from, to, length, start));
  }

  prefill(row: number, start: number, ids: Int32Array, answers: Answers): Promise<StepOutput> {
    return this.#feed(answers === "all" ? this.#scores : this.#prompts, ids.length, [{ row, past: start, ids }]);
  }

  prefillAll(chunks: readonly PromptChunk[]): Promise<StepOutput> {
    const tokens = chunks.reduce((sum, { ids }) => sum + ids.length, 0);
    return this.#feed(
      this.#together,
      tokens,
      chunks.map(({ row, start, ids }) => ({ row, past: start, ids })),
    );
  }

  decode(ids: Int32Array, positions: Int32Array): Promise<StepOutput> {
    const rows = Array.from(ids, (_, row) => ({ row, past: positions[row]!, ids: ids.subarray(row, row + 1) }));
    return this.#feed(this.#decodes, ids.length, rows);
  }

  async fold(input: FoldInput, from: number, to: number): Promise<void> {
    const { width } = this.shape;
    if (input.kind === "tokens") await this.prefill(this.slots, from, input.ids.subarray(from, to), "none");
    else {
      this.#steps.setEmbeds(input.data.subarray(from * width, to * width));
      await this.#feed(this.#softs, to - from, [
        { row: this.slots, past: from, ids: new Int32Array(to - from).fill(SOFT_ID) },
      ]);
    }
  }

  read(row: number, length: number): Promise<KvTensor> {
    return runModel(() => this.#cache.read(row, length));
  }

  wipe(row: number, from: number, to: number): void {
    callModel(() => this.#cache.wipe(row, from, to));
  }

  wipeBuffers(): void {
    callModel(() => {
      this.#cache.wipe(this.slots + 1, 0, this.#cache.layout.capacity);
      this.#steps.wipe();
      this.#cache.wipeBuffers();
    });
  }

  bankStats(): PrefixBankStats {
    return this.#cache.bankStats();
  }

  graphStats(): GraphStats {
    return {
      captured: [...this.#decodes, ...this.#prompts, ...this.#together].filter(({ captured }) => captured).length,
      eager: this.#eager,
    };
  }

  close(): Promise<void> {
    this.#owned[Symbol.dispose]();
    return Promise.resolve();
  }

  /**
   * Captures every size of decode step and prompt. A size that cannot be captured, or whose graph answers differently,
   * runs kernel by kernel.
   */
  async #capture(): Promise<void> {
    const trials = [
      ...this.#decodes.map((step) => this.#decodeTrial(step)),
      ...this.#prompts.map((step) => this.#promptTrial(step)),
      ...this.#together.map((step) => this.#togetherTrial(step)),
    ];
    for (const { step, size, length, rows } of trials) {
      const pasts = new Set(TRIED_PASTS.map((past) => Math.max(0, Math.min(past, this.shape.positions - length))));
      const reason = await step.capture([...pasts].map(rows));
      if (reason !== null) this.#eager.push({ size, reason });
    }
    this.#cache.clear();
    this.#steps.wipe();
  }

  #decodeTrial(step: Step): Trial {
    // Leave the last row as padding.
    const fed = Math.max(1, step.bucket.rows - 1);
    return {
      step,
      size: `decode of ${step.bucket.rows}`,
      length: 1,
      rows: (past) =>
        Array.from({ length: fed }, (_, row) => ({
          row,
          past: Math.max(0, past - (row % 3)),
          ids: this.#trialIds(1, row),
        })),
    };
  }

  #promptTrial(step: Step): Trial {
    const length = Math.min(this.longestChunk, step.bucket.tokens - 3);
    return {
      step,
      size: `prompt of ${step.bucket.tokens}`,
      length,
      rows: (past) => [{ row: 0, past, ids: this.#trialIds(length, past) }],
    };
  }

  #togetherTrial(step: Step): Trial {
    const { tokens } = step.bucket;
    const prompts = Math.min(this.promptsAtOnce, Math.floor(tokens / 4));
    const length = (row: number): number => Math.min(this.longestChunk, Math.floor(tokens / prompts) - (row % 3));
    return {
      step,
      size: `prompts of ${tokens}`,
      length: length(0),
      rows: (past) =>
        Array.from({ length: prompts }, (_, row) => ({
          row,
          past: Math.max(0, past - (row % 5)),
          ids: this.#trialIds(length(row), row),
        })),
    };
  }

  #trialIds(length: number, seed: number): Int32Array {
    return Int32Array.from({ length }, (_, index) => ((index + 1) * 7919 + seed * 911) % this.shape.vocabSize);
  }

  /** Runs the smallest bucket that holds `size` tokens. */
  async #feed(steps: readonly Step[], size: number, rows: readonly FedRow[]): Promise<StepOutput> {
    const step = steps.find(({ bucket }) => bucket.tokens >= size);
    if (step === undefined) throw new RangeError(`${size} tokens are more than one run can be given`);
    for (const { past, ids } of rows)
      if (past + ids.length > this.shape.positions)
        throw new RangeError(`this model has no position ${past + ids.length - 1}`);
    return runModel(() => step.feed(rows));
  }
}

/** Sizes of decode steps up to the number of slots: powers of two, and from 16 on also the midpoint between two. */
export function rowBuckets(slots: number): number[] {
  const sizes: number[] = [];
  for (let size = 1; size < slots; size *= 2) {
    sizes.push(size);
    if (size >= 16 && size * 1.5 < slots) sizes.push(size * 1.5);
  }
  return [...sizes, slots];
}
