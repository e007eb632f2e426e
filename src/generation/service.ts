import { setTimeout as sleep } from "node:timers/promises";
import { lostTouch, PrefixdError, shuttingDown } from "../errors.ts";
import { Generation, abortOutcome, removedError } from "./generation.ts";
import { bestChoices } from "./best-of.ts";
import { choicesPerPrompt, emptyDelta } from "./choices.ts";
import type { PreparedConstraint } from "./constraints.ts";
import type { ChoiceDelta, GenerationEnd, GenerationListener, GenerationParts, ValidGenerateRequest } from "./types.ts";
import type { ResolvedPrefix } from "../prefixes/registry-types.ts";
import { prefixNotFound } from "../prefixes/name.ts";
import type { PrefixKey } from "../prefixes/store.ts";
import { RemovedUsers } from "../replicas/removed-users.ts";
import { userSuspended } from "../users/user-id.ts";

export type * from "./types.ts";
export { removedError } from "./generation.ts";
export { DEFAULT_SAMPLING } from "../engine/request.ts";
export { DEFAULT_NEW_TOKENS } from "./lengths.ts";

/** A complete result. */
export interface Generated {
  readonly choices: readonly ChoiceDelta[];
  readonly end: GenerationEnd;
}

/** Requests ended by a removal: how many had begun in the engine, and how many still waited. */
export interface EndedRequests {
  readonly running: number;
  readonly queued: number;
}

/** The client left before the answer was complete: only the metrics report it. */
export class RequestAborted extends Error {
  override readonly name = "RequestAborted";
}

/** Joins prefixes, engine and text: takes a request from validated parameters to text. */
export class GenerationService {
  readonly #parts: GenerationParts;
  readonly #live = new Set<Generation>();
  readonly #removedUsers = new RemovedUsers();
  readonly #suspendedUsers = new RemovedUsers();
  readonly #deletedKeys = new RemovedUsers();
  #draining = false;

  constructor(parts: GenerationParts) {
    this.#parts = parts;
  }

  /**
   * Throws `queue_full` if the user's next request could not even wait. Asked before its body is read, so that a flood
   * costs others less.
   */
  refuseIfFull(user: string): void {
    this.#parts.engine.refuseIfFull(user);
  }

  /**
   * Accepts a request, with all of its prompts or none; resolves when it is queued. Aborting `signal` ends it silently.
   * Throws `draining`, `removed`, `user_suspended`, `base_model_disabled`, `context_exceeded`, `queue_full`, `user_queue_full`,
   * `token_rate_exceeded`, what the registry's `resolve` and `Constraints.prepare` throw, RequestAborted.
   */
  async start(request: ValidGenerateRequest, listener: GenerationListener, signal: AbortSignal): Promise<void> {
    const generation = new Generation(request, listener, this.#parts, (ended) => this.#live.delete(ended));
    // Added before the prefix is looked up, so that a removal during the look-up is not missed.
    this.#live.add(generation);
    try {
      if (this.#draining) throw shuttingDown(5);
      if (this.#parts.mayEmit?.() === false) throw lostTouch();
      const gone = generation.users.find((user) => this.#removedUsers.has(user));
      // The removal of another user looks the same as a prefix that never existed.
      if (gone !== undefined) throw gone === request.user ? removedError("user") : prefixNotFound();
      if (this.#suspendedUsers.has(request.user)) throw userSuspended();
      if (generation.keyId !== null && this.#deletedKeys.has(generation.keyId)) throw removedError("key");
      const prefix = await this.#resolve(request);
      const constraint = await this.#prepare(request, () => {
        if (signal.aborted) throw new RequestAborted();
      });
      await generation.admit();
      if (signal.aborted) throw new RequestAborted();
      generation.submit(prefix, constraint, signal);
    } catch (error) {
      generation.end(outcomeOf(error, signal));
      throw error;
    }
  }

  /**
   * Returns the complete result. Throws what `start` throws, `removed` if the prefix went away meanwhile, and whatever
   * ends the run.
   */
  collect(request: ValidGenerateRequest, signal: AbortSignal): Promise<Generated> {
    return new Promise((resolve, reject) => {
      const choices: ChoiceDelta[] = Array.from(
        { length: request.prompts.length * choicesPerPrompt(request) },
        (_, index) => emptyDelta(index),
      );
      const onStep = (deltas: readonly ChoiceDelta[], end: GenerationEnd | null): void => {
        for (const delta of deltas) append(choices[delta.index] as ChoiceDelta, delta);
        if (end === null) return;
        if (choices.some((choice) => choice.finishReason === "removed")) reject(end.removal ?? removedError());
        else
          resolve({
            choices: request.bestOf === null ? choices : bestChoices(choices, request.bestOf, request.n),
            end,
          });
      };
      signal.addEventListener("abort", () => reject(new RequestAborted()), { once: true });
      this.start(request, { onStep, onError: reject }, signal).catch(reject);
    });
  }

  /**
   * Ends every request that uses a removed prefix, including those still looking it up; resolves when they have ended.
   */
  endRequestsOf(key: PrefixKey): Promise<EndedRequests> {
    return this.#end((generation) => generation.uses(key), removedError("prefix"), prefixNotFound());
  }

  /**
   * Ends all requests of a removed user, drops the constraints that they brought, and refuses later ones, until
   * `readmitUser`.
   */
  endRequestsOfUser(user: string): Promise<EndedRequests> {
    this.#removedUsers.add(user);
    this.#parts.constraints?.forget(user);
    return this.#end((generation) => generation.users.includes(user), removedError("user"), prefixNotFound());
  }

  /** Ends the requests that came with a deleted key, and refuses those that have just been admitted. */
  endRequestsOfKey(user: string, keyId: string): Promise<EndedRequests> {
    this.#deletedKeys.add(keyId);
    return this.#end((generation) => generation.user === user && generation.keyId === keyId, removedError("key"));
  }

  /**
   * Ends the requests that a user has sent, and refuses those that have just been admitted. Others may go on using the
   * user's shared prefixes.
   */
  suspendUser(user: string): Promise<EndedRequests> {
    this.#suspendedUsers.add(user);
    return this.#end((generation) => generation.user === user, userSuspended());
  }

  resumeUser(user: string): void {
    this.#suspendedUsers.delete(user);
  }

  /** A user with this id was created again. */
  readmitUser(user: string): void {
    this.#removedUsers.delete(user);
    this.#suspendedUsers.delete(user);
  }

  /** Accepts nothing new from now on. */
  stopAdmission(): void {
    this.#draining = true;
  }

  /** Resolves when all requests have ended, or after `ms` milliseconds. */
  async idle(ms: number): Promise<void> {
    const timer = new AbortController();
    const all = Promise.all([...this.#live].map((generation) => generation.ended));
    await Promise.race([all, sleep(ms, undefined, { signal: timer.signal }).catch(() => undefined)]);
    timer.abort();
  }

  /** Ends what still runs with an error, and drops everything cached for users. */
  endAll(error: PrefixdError): void {
    this.#parts.constraints?.forget(null);
    for (const generation of this.#live) generation.fail(error);
  }

  /** `error`: what those are answered that had sent nothing; `refusal`: those that had not reached the engine. */
  async #end(
    which: (generation: Generation) => boolean,
    error: PrefixdError,
    refusal: PrefixdError = error,
  ): Promise<EndedRequests> {
    const ending = [...this.#live].filter(which);
    const running = ending.filter((generation) => generation.begun).length;
    await Promise.all(ending.map((generation) => generation.remove(error, refusal)));
    return { running, queued: ending.length - running };
  }

  async #prepare({ user, constraint }: ValidGenerateRequest, goOn: () => void): Promise<PreparedConstraint | null> {
    if (constraint === null) return null;
    if (this.#parts.constraints === undefined) throw new Error("nothing compiles constraints here");
    return this.#parts.constraints.prepare(user, constraint, goOn);
  }

  async #resolve(request: ValidGenerateRequest): Promise<ResolvedPrefix | null> {
    if (request.prefix !== null) return this.#parts.prefixes.resolve(request.prefix, request.user);
    if (!this.#parts.allowBaseModel)
      throw new PrefixdError("base_model_disabled", "This server does not serve the bare base model: name a prefix.");
    return null;
  }
}

function outcomeOf(error: unknown, signal: AbortSignal): string {
  if (error instanceof PrefixdError) return error.code;
  return error instanceof RequestAborted ? abortOutcome(signal) : "internal";
}

function append(choice: ChoiceDelta, delta: ChoiceDelta): void {
  choice.text += delta.text;
  choice.tokenIds.push(...delta.tokenIds);
  choice.logprobs.token.push(...delta.logprobs.token);
  choice.logprobs.top.push(...delta.logprobs.top);
  choice.finishReason = delta.finishReason;
  choice.score = delta.score;
}
