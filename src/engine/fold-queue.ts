import { asModelError } from "../errors.ts";
import type { FoldInput, KvTensor } from "../kv.ts";
import type { ModelRunner } from "./model-runner.ts";
import type { CacheWiper } from "./wiper.ts";

interface Job {
  readonly input: FoldInput;
  readonly resolve: (kv: KvTensor) => void;
  readonly reject: (error: unknown) => void;
}

/** Soft and hard prompts that are to become keys and values: one between two steps, on the row that no sequence uses. */
export class FoldQueue {
  readonly #runner: ModelRunner;
  readonly #wiper: CacheWiper;
  readonly #jobs: Job[] = [];

  constructor(runner: ModelRunner, wiper: CacheWiper) {
    this.#runner = runner;
    this.#wiper = wiper;
  }

  get pending(): boolean {
    return this.#jobs.length > 0;
  }

  request(input: FoldInput): Promise<KvTensor> {
    return new Promise((resolve, reject) => this.#jobs.push({ input, resolve, reject }));
  }

  /** Work of one step; answers whether there was any. */
  async step(): Promise<boolean> {
    const job = this.#jobs.shift();
    if (job === undefined) return false;
    const { input } = job;
    this.#wiper.written(this.#runner.slots, input.kind === "tokens" ? input.ids.length : input.length);
    try {
      job.resolve(await this.#runner.fold(input));
    } catch (error) {
      job.reject(asModelError(error));
    }
    return true;
  }

  failAll(error: unknown): void {
    for (const { reject } of this.#jobs.splice(0)) reject(error);
  }
}
