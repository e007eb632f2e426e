import type { ClientRequest, IncomingMessage } from "node:http";
import { authorization, problemCode, readText, type Target } from "./http.ts";
import { SseParser } from "./sse-parser.ts";

/** The request body of the server's `POST /generate`. */
export interface GenerateBody {
  readonly prompt: readonly number[];
  readonly max_new_tokens: number;
  readonly ignore_eos: true;
  readonly prefix_id?: string;
  readonly stream?: boolean;
  readonly do_sample?: boolean;
  readonly seed?: number;
  readonly num_beams?: 1;
  readonly stop?: readonly [];
  readonly n?: number;
  readonly logprobs?: number;
  readonly return_token_ids?: boolean;
}

/**
 * Parameters that keep a request what it is meant to be, greedy or drawn, one row, `max_new_tokens` long, whatever the
 * model's own defaults are.
 */
export const PLAIN = { ignore_eos: true, stop: [], num_beams: 1, n: 1, do_sample: false } as const;

export interface GenerateCall {
  readonly target: Target;
  readonly key: string | null;
  readonly body: GenerateBody;
  /** When it should be sent, by `performance.now()`. Latencies count from here. */
  readonly intendedAt: number;
  /** Close the connection after this many tokens. */
  readonly disconnectAfter?: number;
  /** Read no faster than this. */
  readonly bytesPerSecond?: number;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
  /** Called with the number of new tokens on each arrival. */
  readonly onTokens?: (count: number, at: number) => void;
}

/** One request's outcome. Times are by `performance.now()`, in milliseconds. */
export interface CallRecord {
  readonly intendedAt: number;
  readonly sentAt: number;
  readonly endedAt: number;
  /** Null without a stream. */
  readonly firstTokenAt: number | null;
  /** Gaps between events with tokens. */
  readonly gaps: readonly number[];
  /** Choices requested. */
  readonly choices: number;
  /** `ok`, the server's error code, or `timeout`, `connection`, `cut`, `disconnected`, `malformed`. */
  readonly code: string;
  readonly retryAfterS: number | null;
  readonly tokens: number;
  /** The first choice, as far as received. */
  readonly answer: GeneratedChoice;
  readonly prefix: { readonly id: string; readonly digest: string } | null;
}

export interface GeneratedChoice {
  readonly tokenIds: readonly number[];
  readonly logprobs: readonly number[];
  readonly text: string;
  readonly finishReason: string | null;
}

/** The parts read of a response body or a stream's event. */
interface Document {
  readonly choices: readonly {
    readonly index: number;
    readonly text: string;
    readonly token_ids?: readonly number[];
    readonly logprobs?: { readonly token_logprobs: readonly number[] };
    readonly finish_reason: string | null;
  }[];
  readonly prefix?: { readonly id: string; readonly digest: string } | null;
  readonly usage?: { readonly completion_tokens: number };
}

/** Sends one request and follows it to its end. Never rejects: errors are the record's `code`. */
export function generate(call: GenerateCall): Promise<CallRecord> {
  return new Promise((resolve) => {
    const bytes = Buffer.from(JSON.stringify(call.body));
    const exchange = new Exchange(call, resolve);
    const headers = { ...authorization(call.key), "content-type": "application/json", "content-length": bytes.length };
    exchange.send(call.target.open("POST", "/generate", headers), bytes);
  });
}

class Exchange {
  readonly #call: GenerateCall;
  readonly #resolve: (record: CallRecord) => void;
  readonly #sentAt = performance.now();
  #request: ClientRequest | undefined;
  #timer: NodeJS.Timeout | undefined;
  #refill: NodeJS.Timeout | undefined;
  #ended = false;
  #answered = false;
  #firstTokenAt: number | null = null;
  #lastTokenAt = 0;
  readonly #gaps: number[] = [];
  #tokens = 0;
  #tokenIds: number[] = [];
  #logprobs: number[] = [];
  #text = "";
  #finishReason: string | null = null;
  #prefix: CallRecord["prefix"] = null;
  #retryAfterS: number | null = null;
  #completed = false;
  readonly #abort = (): void => this.#end("disconnected");

  constructor(call: GenerateCall, resolve: (record: CallRecord) => void) {
    this.#call = call;
    this.#resolve = resolve;
  }

  send(request: ClientRequest, bytes: Uint8Array): void {
    this.#request = request;
    this.#timer = setTimeout(() => this.#end("timeout"), this.#call.timeoutMs);
    this.#call.signal?.addEventListener("abort", this.#abort, { once: true });
    request.on("error", () => this.#end(this.#answered ? "cut" : "connection"));
    request.on("response", (response) => this.#onResponse(response));
    request.end(bytes);
  }

  #onResponse(response: IncomingMessage): void {
    this.#answered = true;
    const status = response.statusCode ?? 0;
    const retryAfter = Number(response.headers["retry-after"]);
    if (Number.isFinite(retryAfter)) this.#retryAfterS = retryAfter;
    if (status === 200 && String(response.headers["content-type"]).startsWith("text/event-stream"))
      return this.#readStream(response);
    readText(response).then(
      (text) => this.#onWhole(status, text),
      () => this.#end("cut"),
    );
  }

  #onWhole(status: number, text: string): void {
    if (status !== 200) return this.#end(problemCode(status, text));
    try {
      const document = JSON.parse(text) as Document;
      this.#take(document, performance.now(), false);
      this.#tokens = document.usage?.completion_tokens ?? 0;
      this.#call.onTokens?.(this.#tokens, performance.now());
      this.#end("ok");
    } catch {
      this.#end("malformed");
    }
  }

  #readStream(response: IncomingMessage): void {
    const parser = new SseParser();
    response.setEncoding("utf8");
    if (this.#call.bytesPerSecond !== undefined) this.#slowDown(response, this.#call.bytesPerSecond);
    response.on("data", (text: string) => {
      const now = performance.now();
      try {
        for (const event of parser.push(text)) this.#onEvent(event.event, event.data, now);
      } catch {
        this.#end("malformed");
      }
    });
    response.on("error", () => this.#end("cut"));
    response.on("close", () => this.#end("cut"));
  }

  /** Reads what has arrived, then pauses for as long as that many bytes should have taken. */
  #slowDown(response: IncomingMessage, bytesPerSecond: number): void {
    response.on("data", (text: string) => {
      response.pause();
      this.#refill = setTimeout(() => response.resume(), (text.length * 1000) / bytesPerSecond);
    });
  }

  #onEvent(event: string, data: string, now: number): void {
    if (this.#ended) return;
    if (data === "[DONE]") return this.#end(this.#completed ? "ok" : "malformed");
    if (event === "error") return this.#end(problemCode(0, data));
    const document = JSON.parse(data) as Document;
    this.#take(document, now, true);
    const { disconnectAfter } = this.#call;
    if (disconnectAfter !== undefined && this.#tokens >= disconnectAfter) this.#end("disconnected");
  }

  #take({ choices, prefix, usage }: Document, now: number, streamed: boolean): void {
    let tokens = 0;
    for (const choice of choices) {
      tokens += choice.token_ids?.length ?? 0;
      if (choice.index !== 0) continue;
      this.#text += choice.text;
      for (const id of choice.token_ids ?? []) this.#tokenIds.push(id);
      for (const logprob of choice.logprobs?.token_logprobs ?? []) this.#logprobs.push(logprob);
      this.#finishReason = choice.finish_reason ?? this.#finishReason;
    }
    if (prefix !== undefined) this.#prefix = prefix;
    if (usage !== undefined) this.#completed = true;
    if (!streamed || tokens === 0) return;
    if (this.#firstTokenAt === null) this.#firstTokenAt = now;
    else this.#gaps.push(now - this.#lastTokenAt);
    this.#lastTokenAt = now;
    this.#tokens += tokens;
    this.#call.onTokens?.(tokens, now);
  }

  #end(code: string): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#refill);
    this.#call.signal?.removeEventListener("abort", this.#abort);
    // A normal end leaves the connection open for the next request, unless its reader is slow and may be paused.
    if (this.#call.bytesPerSecond !== undefined || ["timeout", "disconnected", "malformed", "cut"].includes(code))
      this.#request?.destroy();
    this.#resolve({
      intendedAt: this.#call.intendedAt,
      sentAt: this.#sentAt,
      endedAt: performance.now(),
      firstTokenAt: this.#firstTokenAt,
      gaps: this.#gaps,
      choices: this.#call.body.n ?? 1,
      code: code === "ok" && this.#finishReason === "removed" ? "removed" : code,
      retryAfterS: this.#retryAfterS,
      tokens: this.#tokens,
      answer: {
        tokenIds: this.#tokenIds,
        logprobs: this.#logprobs,
        text: this.#text,
        finishReason: this.#finishReason,
      },
      prefix: this.#prefix,
    });
  }
}
