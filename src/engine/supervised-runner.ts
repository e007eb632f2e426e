import { PrefixdError } from "../errors.ts";
import type { FoldInput, KvTensor, ModelShape } from "../kv.ts";
import type { Answers, ModelRunner, PromptChunk, StepOutput } from "./runner.ts";

export interface SupervisionOptions {
  /** Milliseconds after which a run counts as hung. */
  readonly timeoutMs: number;
  /** Called once. */
  readonly onLost: (error: PrefixdError) => void;
}

/**
 * A runner on a device that can go away: reset by its driver, unplugged, hung. A failed run is followed by a small one:
 * if that works, the failure was the run's own (out of memory, for example); if not, the device is lost. A run that
 * times out also counts as a lost device. From then on every call fails with `device_lost`, and the device is left
 * alone.
 */
export class SupervisedRunner implements ModelRunner {
  readonly #runner: ModelRunner;
  readonly #options: SupervisionOptions;
  #lost: PrefixdError | null = null;
  /** A call that is not awaited has failed: examine the device before the next run. */
  #suspect = false;
  /** Settles when nothing runs in the device. */
  #running: Promise<unknown> = Promise.resolve();

  constructor(runner: ModelRunner, options: SupervisionOptions) {
    this.#runner = runner;
    this.#options = options;
  }

  get shape(): ModelShape {
    return this.#runner.shape;
  }

  get slots(): number {
    return this.#runner.slots;
  }

  get longestChunk(): number {
    return this.#runner.longestChunk;
  }

  get promptsAtOnce(): number {
    return this.#runner.promptsAtOnce;
  }

  get chunkingChangesBits(): boolean {
    return this.#runner.chunkingChangesBits;
  }

  loadPrefix(row: number, prefix: KvTensor): void {
    this.#now(() => this.#runner.loadPrefix(row, prefix));
  }

  copyRow(from: number, to: number, length: number, start: number): void {
    this.#now(() => this.#runner.copyRow(from, to, length, start));
  }

  wipe(row: number, from: number, to: number): void {
    this.#now(() => this.#runner.wipe(row, from, to));
  }

  wipeBuffers(): void {
    this.#now(() => this.#runner.wipeBuffers());
  }

  prefill(row: number, start: number, ids: Int32Array, answers: Answers): Promise<StepOutput> {
    return this.#run(() => this.#runner.prefill(row, start, ids, answers));
  }

  prefillAll(chunks: readonly PromptChunk[]): Promise<StepOutput> {
    return this.#run(() => this.#runner.prefillAll(chunks));
  }

  decode(ids: Int32Array, positions: Int32Array): Promise<StepOutput> {
    return this.#run(() => this.#runner.decode(ids, positions));
  }

  fold(input: FoldInput, from: number, to: number): Promise<void> {
    return this.#run(() => this.#runner.fold(input, from, to));
  }

  read(row: number, length: number): Promise<KvTensor> {
    return this.#run(() => this.#runner.read(row, length));
  }

  /** Waits for a run that is still on the device, whose memory cannot be freed under it. May wait forever. */
  async close(): Promise<void> {
    await this.#running;
    await this.#runner.close();
  }

  #now<T>(call: () => T): T {
    if (this.#lost !== null) throw this.#lost;
    try {
      return call();
    } catch (error) {
      if (!(error instanceof RangeError)) this.#suspect = true;
      throw error;
    }
  }

  async #run<T>(run: () => Promise<T>): Promise<T> {
    if (this.#lost !== null) throw this.#lost;
    if (this.#suspect) await this.#examine();
    try {
      return await this.#within(run);
    } catch (error) {
      if (this.#lost === null) await this.#examine();
      throw this.#lost ?? error;
    }
  }

  /** Folds one token: that uses a row of its own, and reads something back. */
  async #examine(): Promise<void> {
    this.#suspect = false;
    try {
      await this.#within(() => this.#runner.fold({ kind: "tokens", ids: Int32Array.of(0) }, 0, 1));
      await this.#within(() => this.#runner.read(this.slots, 1));
    } catch (error) {
      throw this.#lose("The device that runs the model has failed.", error);
    }
  }

  async #within<T>(run: () => Promise<T>): Promise<T> {
    let ended = false;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const overdue = (): void => {
        if (!ended) reject(this.#lose("The device that runs the model does not answer."));
      };
      // After the process was stopped, timer and result are due together: the result counts.
      timer = setTimeout(() => setTimeout(overdue, 0), this.#options.timeoutMs);
    });
    const running = run();
    this.#running = running.catch(() => undefined);
    try {
      return await Promise.race([running, late]);
    } finally {
      ended = true;
      clearTimeout(timer);
    }
  }

  #lose(detail: string, cause?: unknown): PrefixdError {
    if (this.#lost !== null) return this.#lost;
    this.#lost = new PrefixdError("device_lost", detail, { retryAfter: 5, cause });
    this.#options.onLost(this.#lost);
    return this.#lost;
  }
}
