import type { FoldOptions } from "../engine/fold-queue.ts";
import { PrefixdError } from "../errors.ts";
import { RequestMeter, type MeterParts } from "./meter.ts";
import { foldLength, type FoldInput, type KvTensor } from "../kv.ts";
import type { PrefixKey } from "../prefixes/store.ts";
import { RemovedUsers } from "../replicas/removed-users.ts";
import { userSuspended } from "../users/user-id.ts";

/** The part of the engine that folding needs. */
export interface FoldingEngine {
  fold(input: FoldInput, options: FoldOptions): Promise<KvTensor>;
  tryPrefix(prefix: KvTensor, options: FoldOptions): Promise<void>;
  endFolds(error: PrefixdError, tenant?: string): void;
}

export interface FoldingParts extends MeterParts {
  readonly engine: FoldingEngine;
}

/**
 * Runs what is registered through the model, on its user's share: soft and hard prompts in full, which are also charged
 * to the token rate and the bill; keys and values with one token.
 */
export class FoldingService {
  readonly #parts: FoldingParts;
  readonly #removed = new RemovedUsers();
  readonly #suspended = new RemovedUsers();

  constructor(parts: FoldingParts) {
    this.#parts = parts;
  }

  /**
   * Returns the keys and values of the future prefix `key`. Its positions are charged as prompt tokens, unless it was
   * given up (`signal`) before the engine began; it is no request to generate, and counts as none.
   * @throws PrefixdError token_rate_exceeded, removed, user_suspended, and what the engine's `fold` throws
   */
  async fold(input: FoldInput, { user, name }: PrefixKey, signal?: AbortSignal): Promise<KvTensor> {
    const meter = new RequestMeter(
      { user, prefix: { name }, prompts: [{ length: foldLength(input) }], mostNewTokens: 0, requests: 0 },
      this.#parts,
    );
    await meter.admit();
    const refusal = this.#refusal(user);
    if (refusal !== null) {
      meter.refuse();
      throw refusal;
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
   * Tries keys and values uploaded by this user with one token. This is our own check, so nobody is charged for it.
   * @throws PrefixdError prefix_overflows, removed, user_suspended, and what the engine's `fold` throws
   */
  async tryPrefix(prefix: KvTensor, { user }: PrefixKey, signal?: AbortSignal): Promise<void> {
    const refusal = this.#refusal(user);
    if (refusal !== null) throw refusal;
    await this.#parts.engine.tryPrefix(prefix, { tenant: user, ...(signal === undefined ? {} : { signal }) });
  }

  /** Ends a removed user's folds and refuses later ones, until `readmitUser`. */
  endOfUser(user: string): void {
    this.#removed.add(user);
    this.#parts.engine.endFolds(userRemovedError(), user);
  }

  /** The same for a suspended user, until `resumeUser`. */
  suspendUser(user: string): void {
    this.#suspended.add(user);
    this.#parts.engine.endFolds(userSuspended(), user);
  }

  resumeUser(user: string): void {
    this.#suspended.delete(user);
  }

  /** A user with this id was created again. */
  readmitUser(user: string): void {
    this.#removed.delete(user);
    this.#suspended.delete(user);
  }

  #refusal(user: string): PrefixdError | null {
    if (this.#removed.has(user)) return userRemovedError();
    return this.#suspended.has(user) ? userSuspended() : null;
  }

  endAll(error: PrefixdError): void {
    this.#parts.engine.endFolds(error);
  }
}

/** For what nobody has asked for, such as the adapters of `--prefixes`: on its user's share, and on nobody's bill. */
export function unmeteredFolding(engine: FoldingEngine): Pick<FoldingService, "fold" | "tryPrefix"> {
  return {
    fold: (input, { user }) => engine.fold(input, { tenant: user }),
    tryPrefix: (kv, { user }) => engine.tryPrefix(kv, { tenant: user }),
  };
}

const userRemovedError = (): PrefixdError =>
  new PrefixdError("removed", "The user was removed before the prefix was registered.");
