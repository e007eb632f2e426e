import type { FoldOptions } from "../engine/fold-queue.ts";
import { PrefixdError } from "../errors.ts";
import { RequestMeter, type MeterParts } from "./meter.ts";
import { foldLength, type FoldInput, type KvTensor } from "../kv.ts";
import type { PrefixKey } from "../prefixes/store.ts";
import { RemovedUsers } from "../replicas/removed-users.ts";

/** What is needed of the engine. */
export interface FoldingEngine {
  fold(input: FoldInput, options: FoldOptions): Promise<KvTensor>;
  tryPrefix(prefix: KvTensor, options: FoldOptions): Promise<void>;
  endFolds(error: PrefixdError, tenant?: string): void;
}

export interface FoldingParts extends MeterParts {
  readonly engine: FoldingEngine;
}

/** What is registered goes through the model on its user's share: soft and hard prompts whole, on their tokens per minute and their bill too; keys and values with one token. */
export class FoldingService {
  readonly #parts: FoldingParts;
  readonly #removed = new RemovedUsers();

  constructor(parts: FoldingParts) {
    this.#parts = parts;
  }

  /**
   * The keys and values of what is to be the prefix `key`. Its positions count as tokens of a prompt; nobody is charged for what was given up
   * (`signal`) before the engine began with it.
   * @throws PrefixdError token_rate_exceeded, removed, and what the engine's `fold` throws
   */
  async fold(input: FoldInput, { user, name }: PrefixKey, signal?: AbortSignal): Promise<KvTensor> {
    const meter = new RequestMeter(
      { user, prefix: { name }, prompts: [{ length: foldLength(input) }], mostNewTokens: 0 },
      this.#parts,
    );
    await meter.admit();
    if (this.#removed.has(user)) {
      meter.refuse();
      throw removedError();
    }
    meter.submitted();
    try {
      return await this.#parts.engine.fold(input, {
        tenant: user,
        onStart: () => meter.started(0),
        ...(signal === undefined ? {} : { signal }),
      });
    } finally {
      meter.ended(0);
    }
  }

  /**
   * Tries keys and values that are to be the prefix of this user with one token, which is a check of ours and on nobody's bill.
   * @throws PrefixdError prefix_overflows, removed, and what the engine's `fold` throws
   */
  async tryPrefix(prefix: KvTensor, { user }: PrefixKey, signal?: AbortSignal): Promise<void> {
    if (this.#removed.has(user)) throw removedError();
    await this.#parts.engine.tryPrefix(prefix, { tenant: user, ...(signal === undefined ? {} : { signal }) });
  }

  /** Ends what a removed user has folded, and refuses what comes later, until `readmitUser`. */
  endOfUser(user: string): void {
    this.#removed.add(user);
    this.#parts.engine.endFolds(removedError(), user);
  }

  /** A user of this id has been created anew. */
  readmitUser(user: string): void {
    this.#removed.delete(user);
  }

  endAll(error: PrefixdError): void {
    this.#parts.engine.endFolds(error);
  }
}

const removedError = (): PrefixdError =>
  new PrefixdError("removed", "The user was removed before the prefix was registered.");
