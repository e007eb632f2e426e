import { PrefixdError } from "../../src/errors.ts";
import type { EngineRequest, FinishReason, RequestHandle, RequestListener } from "../../src/engine/request.ts";
import type { GenerationEngine } from "../../src/generation/service.ts";
import type { EngineSnapshot, EngineStats } from "../../src/observability/engine-observer.ts";

interface Running {
  readonly request: EngineRequest;
  readonly listener: RequestListener;
  readonly open: Set<number>;
  made: number;
}

/** A scripted engine: `script(request, choice, k)` is the k-th token. Steps every `stepMs`, or manually. */
export class FakeEngine implements GenerationEngine {
  readonly submitted: EngineRequest[] = [];
  readonly cancelled: string[] = [];
  script: (request: EngineRequest, choice: number, k: number) => number = (request, choice, k) =>
    (request.promptIds.at(-1) ?? 0) + 1 + choice + k;
  logprob: (choice: number) => number = () => -0.5;
  stepMs: number | null = 0;
  maxQueue = 4;
  /** Users whose next request is refused before it is sent. */
  readonly refused = new Set<string>();
  #draining = false;
  #running: Running[] = [];
  #timer: NodeJS.Timeout | undefined;

  submit(request: EngineRequest, listener: RequestListener): RequestHandle {
    if (this.#draining) throw new PrefixdError("draining", "The server is shutting down.", { retryAfter: 1 });
    if (this.#running.length >= this.maxQueue) throw full(this.maxQueue);
    const running: Running = {
      request,
      listener,
      open: new Set(Array.from({ length: request.n }, (_, i) => i)),
      made: 0,
    };
    this.submitted.push(request);
    this.#running.push(running);
    if (this.stepMs !== null) this.#timer ??= setTimeout(() => this.#tick(), this.stepMs);
    return { cancel: (reason) => this.#cancel(running, reason) };
  }

  refuseIfFull(tenant: string): void {
    if (this.refused.has(tenant)) throw full(this.maxQueue);
  }

  stats(): EngineStats {
    const running = this.#running.length;
    return { queued: 0, folds: 0, running, runningRequests: running, slots: 8, maxQueue: this.maxQueue };
  }

  /** Who runs. */
  snapshot(): EngineSnapshot {
    const rows = this.#running.map(({ request: { tenant, prefixId = null, maxNewTokens }, made }) => ({
      tenant,
      prefixId,
      phase: "decode" as const,
      tokens: made,
      of: maxNewTokens,
      ageMs: 0,
    }));
    const tenants = [...new Set(rows.map(({ tenant }) => tenant))].map((tenant) => ({
      tenant,
      weight: 1,
      rows: rows.filter((row) => row.tenant === tenant).length,
      waiting: 0,
      oldestMs: null,
    }));
    return { rows, tenants };
  }

  async drain(graceMs: number): Promise<void> {
    this.#draining = true;
    const until = performance.now() + graceMs;
    while (this.#running.length > 0 && performance.now() < until)
      await new Promise((resolve) => setTimeout(resolve, 5));
    this.failAll(new PrefixdError("draining", "The server shut down before this request had finished."));
  }

  /**
   * One token for every open choice. With `scorePrompt` a prompt's tokens come first, each with -0.25; a search reports
   * its tokens as they come, and its scores.
   */
  step(): void {
    for (const running of [...this.#running]) {
      if (running.made === 0) this.#begin(running);
      if (running.request.beams !== null) running.listener.onBeamStep?.(running.request.beams.numBeams);
      for (const choice of [...running.open]) {
        if (!running.open.has(choice)) continue;
        const { request, listener } = running;
        const id = this.script(request, choice, running.made);
        const top = Array.from({ length: request.topLogprobs }, (_, i) => ({ id: (id + i) % 257, logprob: -0.5 - i }));
        const verdict = listener.onToken({ choice, id, logprob: this.logprob(choice), top });
        const eos = request.eosIds.includes(id);
        if (eos || verdict === "stop" || running.made + 1 >= request.maxNewTokens)
          this.#finish(running, choice, eos ? "eos" : verdict === "stop" ? "stop" : "length");
      }
      running.made++;
    }
  }

  #begin(running: Running): void {
    const { request, listener, open } = running;
    listener.onStart?.();
    const { promptIds, topLogprobs } = request;
    if (request.scorePrompt) {
      const tokens = Array.from(promptIds, (id, at) => ({
        id,
        logprob: at === 0 ? null : -0.25,
        top: at === 0 ? [] : Array.from({ length: topLogprobs }, () => ({ id, logprob: -0.25 })),
      }));
      listener.onPrompt?.(tokens);
    }
    if (request.maxNewTokens === 0) for (const choice of [...open]) this.#finish(running, choice, "length");
  }

  failAll(error: PrefixdError): void {
    for (const { listener } of this.#running.splice(0)) listener.onError(error);
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  #tick(): void {
    this.#timer = undefined;
    this.step();
    if (this.#running.length > 0 && this.stepMs !== null) this.#timer ??= setTimeout(() => this.#tick(), this.stepMs);
  }

  #finish(running: Running, choice: number, reason: FinishReason): void {
    if (!running.open.delete(choice)) return;
    if (running.open.size === 0) this.#running = this.#running.filter((other) => other !== running);
    running.listener.onFinish(choice, reason, running.request.beams === null ? undefined : -1 - choice);
  }

  #cancel(running: Running, reason: "cancelled" | "removed"): void {
    if (running.open.size === 0 || !this.#running.includes(running)) return;
    this.cancelled.push(`${running.request.id} ${reason}`);
    if (reason === "removed") for (const choice of [...running.open]) this.#finish(running, choice, "removed");
    running.open.clear();
    this.#running = this.#running.filter((other) => other !== running);
  }
}

function full(maxQueue: number): PrefixdError {
  return new PrefixdError("queue_full", `${maxQueue} requests are waiting already.`, { retryAfter: 1 });
}
