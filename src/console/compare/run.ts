/** One column's request, as it comes. */
import { asApiError, type Api, type ApiError } from "../api.ts";
import type { GenerateBody } from "./settings.ts";

export interface Token {
  readonly text: string;
  readonly logprob: number;
  /** Likeliest first. */
  readonly alternatives: readonly { readonly token: string; readonly logprob: number }[];
  /** Milliseconds after the request left. */
  readonly at: number;
  /** It ended the answer and is no text. */
  readonly end: boolean;
}

export interface Timings {
  readonly queue_ms: number;
  readonly prefill_ms: number;
  readonly decode_ms: number;
  readonly tokens_per_second: number | null;
}

interface StreamEvent {
  readonly choices: readonly {
    readonly text: string;
    readonly token_ids?: readonly number[];
    readonly logprobs?: {
      readonly token_logprobs: readonly number[];
      readonly top_logprobs: readonly (readonly {
        readonly id: number;
        readonly token: string;
        readonly logprob: number;
      }[])[];
    };
    readonly finish_reason: string | null;
  }[];
  readonly timings?: Timings;
}

let made = 0;

export class Run {
  readonly id = ++made;
  readonly prefix: string | null;
  state: "waiting" | "streaming" | "ended" | "stopped" | "failed" = "waiting";
  readonly tokens: Token[] = [];
  finish: string | null = null;
  timings: Timings | null = null;
  error: ApiError | null = null;
  readonly #startedAt = performance.now();
  readonly #abort = new AbortController();
  readonly #changed: (run: Run) => void;
  /** Tokens whose text has not come yet: parts of a character, or what may begin a stop string. */
  #held: Token[] = [];

  constructor(prefix: string | null, changed: (run: Run) => void) {
    this.prefix = prefix;
    this.#changed = changed;
  }

  get over(): boolean {
    return this.state !== "waiting" && this.state !== "streaming";
  }

  /** What it was at a moment after it had left; null: what it is now. */
  stateAt(moment: number | null): Run["state"] {
    if (moment === null || (this.tokens.at(-1)?.at ?? 0) <= moment) return this.state;
    return (this.tokens[0]?.at ?? 0) <= moment ? "streaming" : "waiting";
  }

  /** What had arrived by then. */
  tokensAt(moment: number | null): readonly Token[] {
    return moment === null ? this.tokens : this.tokens.filter(({ at }) => at <= moment);
  }

  get text(): string {
    return this.tokens.map(({ text, end }) => (end ? "" : text)).join("");
  }

  /** Resolves when it is over, however it ends. */
  async start(api: Api, body: GenerateBody): Promise<void> {
    try {
      if (body["stream"] === true)
        for await (const { data } of api.events("/generate", body, this.#abort.signal)) {
          this.#add(JSON.parse(data) as StreamEvent);
          this.#changed(this);
        }
      else this.#add(await api.send<StreamEvent>("POST", "/generate", body, { signal: this.#abort.signal }));
      if (!this.over) this.state = "ended";
    } catch (error) {
      if (this.#abort.signal.aborted) this.state = "stopped";
      else {
        this.state = "failed";
        this.error = asApiError(error);
      }
    }
    this.#changed(this);
  }

  stop(): void {
    this.#abort.abort();
  }

  #add({ choices: [choice], timings }: StreamEvent): void {
    if (timings !== undefined) this.timings = timings;
    if (choice === undefined) return;
    this.state = "streaming";
    const { text, token_ids: ids = [], logprobs, finish_reason: finish } = choice;
    const at = performance.now() - this.#startedAt;
    const came = ids.map((id, i): Token => {
      const alternatives = logprobs?.top_logprobs[i] ?? [];
      const token = alternatives.find((one) => one.id === id)?.token ?? "";
      return { text: token, logprob: logprobs?.token_logprobs[i] ?? 0, alternatives, at, end: false };
    });
    const last = finish === "eos" ? came.pop() : undefined;
    this.#show([...this.#held, ...came], text);
    if (last !== undefined) this.tokens.push({ ...last, text: "", end: true });
    if (finish !== null) {
      this.finish = finish;
      this.state = "ended";
    }
  }

  /** Gives tokens their text. Where that is not the tokens' own, one after the other, they are shown as one. */
  #show(tokens: Token[], text: string): void {
    this.#held = [];
    if (tokens.length === 0) return;
    if (text === "") this.#held = tokens;
    else if (tokens.map((token) => token.text).join("") === text) this.tokens.push(...tokens);
    else {
      const least = tokens.reduce((a, b) => (b.logprob < a.logprob ? b : a));
      this.tokens.push({ ...least, text, at: tokens.at(-1)!.at });
    }
  }
}
