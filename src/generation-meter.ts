import type { RequestUsage } from "./users/usage.ts";
import type { TokenRate } from "./users/token-rate.ts";

/** Tokens generated before they are charged: a long request must not run far into debt unseen, nor ask the store at every step. */
const CHARGE_EVERY = 64;

export interface MeterParts {
  /** Called once for each request that was taken in, however it ended. */
  readonly usage?: { record(usage: RequestUsage): void };
  readonly tokenRate?: TokenRate;
}

export interface Metered {
  readonly user: string;
  readonly prefix: { readonly name: string } | null;
  readonly prompts: readonly Int32Array[];
}

/** What one request uses: its time in the queue and in the model, and its tokens, for the bill and for the user's tokens per minute. */
export class RequestMeter {
  readonly #request: Metered;
  readonly #parts: MeterParts;
  readonly #started: boolean[];
  #submittedAt = 0;
  #startedAt: number | null = null;
  /** Prompt tokens that the rate has been charged for. */
  #admitted = 0;
  #completion = 0;
  #charged = 0;

  constructor(request: Metered, parts: MeterParts) {
    this.#request = request;
    this.#parts = parts;
    this.#started = request.prompts.map(() => false);
  }

  /** @throws PrefixdError token_rate_exceeded */
  async admit(): Promise<void> {
    const tokens = this.#promptTokens(() => true);
    await this.#parts.tokenRate?.admit(this.#request.user, tokens);
    this.#admitted = tokens;
  }

  /** It was admitted and then not taken in. */
  refuse(): void {
    this.#charge(-this.#admitted);
  }

  submitted(): void {
    this.#submittedAt = performance.now();
  }

  /** Prompt `index` left the queue. May be told more than once. */
  started(index: number): void {
    this.#startedAt ??= performance.now();
    this.#started[index] = true;
  }

  generated(tokens: number): void {
    this.#completion += tokens;
    if (this.#completion - this.#charged >= CHARGE_EVERY) this.#chargeCompletion();
  }

  /** To be called once. Prompts that never left the queue cost nothing; what was generated counts, whoever ended it. */
  ended(prefixTokens: number): void {
    const now = performance.now();
    const startedAt = this.#startedAt ?? now;
    const promptTokens = this.#promptTokens((index) => this.#started[index] === true);
    this.#chargeCompletion();
    this.#charge(promptTokens - this.#admitted);
    this.#parts.usage?.record({
      user: this.#request.user,
      prefix: this.#request.prefix?.name ?? null,
      prefixTokens: this.#startedAt === null ? 0 : prefixTokens,
      promptTokens,
      completionTokens: this.#completion,
      queueSeconds: (startedAt - this.#submittedAt) / 1000,
      runSeconds: (now - startedAt) / 1000,
    });
  }

  #chargeCompletion(): void {
    const tokens = this.#completion - this.#charged;
    this.#charged = this.#completion;
    this.#charge(tokens);
  }

  #charge(tokens: number): void {
    if (tokens !== 0) this.#parts.tokenRate?.charge(this.#request.user, tokens);
  }

  #promptTokens(counts: (index: number) => boolean): number {
    return this.#request.prompts.reduce((sum, ids, index) => sum + (counts(index) ? ids.length : 0), 0);
  }
}
