/** Clients that request known answers through a balancer until stopped, with the outcome of each request. */
import { setTimeout as sleep } from "node:timers/promises";

export interface Case {
  readonly prefix: string;
  readonly prompt: readonly number[];
  readonly tokens: number;
}

export interface Generated {
  readonly ids: readonly number[];
  readonly logprobs: readonly number[];
}

/**
 * One request. `end`: ok, cut (mid-stream), or a problem's code; `replica`: who answered, once its header has arrived.
 */
export interface Call {
  readonly case: Case;
  readonly streamed: boolean;
  readonly startedAt: number;
  replica: string | null;
  end: string | null;
  ids: number[];
  logprobs: number[];
}

interface Document {
  readonly choices?: readonly {
    readonly token_ids?: readonly number[];
    readonly logprobs?: { readonly token_logprobs: readonly number[] };
  }[];
  readonly code?: string;
}

/** Sends a request and follows it to its end. Never rejects. `byPath`: the prefix is in the path, else in the body. */
export async function ask(
  url: string,
  one: Case,
  {
    streamed = false,
    byPath = false,
    onCall,
  }: { streamed?: boolean; byPath?: boolean; onCall?: (call: Call) => void } = {},
): Promise<Call> {
  const call: Call = {
    case: one,
    streamed,
    startedAt: performance.now(),
    replica: null,
    end: null,
    ids: [],
    logprobs: [],
  };
  onCall?.(call);
  const take = (document: Document): void => {
    call.ids.push(...(document.choices?.[0]?.token_ids ?? []));
    call.logprobs.push(...(document.choices?.[0]?.logprobs?.token_logprobs ?? []));
  };
  const body = {
    prompt: one.prompt,
    max_new_tokens: one.tokens,
    ignore_eos: true,
    logprobs: 0,
    return_token_ids: true,
    stream: streamed,
  };
  try {
    const response = await fetch(url + (byPath ? `/prefixes/${one.prefix}/generate` : "/generate"), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(byPath ? body : { ...body, prefix_id: one.prefix }),
    });
    call.replica = response.headers.get("x-prefixd-replica");
    if (!streamed || response.status !== 200) {
      const document = (await response.json()) as Document;
      take(document);
      call.end = response.status === 200 ? "ok" : (document.code ?? `http_${response.status}`);
    } else call.end = await readEvents(response, take);
  } catch (error) {
    call.end = call.replica === null ? `no answer: ${String((error as Error).cause ?? error)}` : "cut";
  }
  return call;
}

/** Returns how the stream ended: ok, or the code of its error event; rejects if it is cut. */
async function readEvents(response: Response, take: (document: Document) => void): Promise<string> {
  let rest = "";
  for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
    const events = (rest + piece).split("\n\n");
    rest = events.pop()!;
    for (const event of events) {
      const data = /^data: (.*)$/m.exec(event)?.[1];
      if (data === "[DONE]") return "ok";
      if (data === undefined) continue;
      const document = JSON.parse(data) as Document;
      if (event.startsWith("event: error")) return document.code ?? "error";
      take(document);
    }
  }
  throw new Error("the stream ended without [DONE]");
}

/**
 * Clients that run until `stop`. Each sends the next case when the last one has been answered, half of them streamed,
 * by path and by body.
 */
export class BalancedLoad {
  /** In order of their start. */
  readonly calls: Call[] = [];
  /** Milliseconds that a client waits after an answer. */
  pause = 0;
  #stopping = false;
  readonly #clients: Promise<void>[];

  constructor(url: string, cases: readonly Case[], clients: number) {
    let next = 0;
    const client = async (): Promise<void> => {
      while (!this.#stopping) {
        const index = next++;
        const { end } = await ask(url, cases[index % cases.length]!, {
          streamed: index % 4 < 2,
          byPath: index % 2 === 0,
          onCall: (call) => this.calls.push(call),
        });
        if (end !== "ok") await sleep(20);
        else if (this.pause > 0) await sleep(this.pause);
      }
    };
    this.#clients = Array.from({ length: clients }, client);
  }

  /** Resolves when `count` more requests have succeeded. */
  async more(count: number): Promise<void> {
    const answered = (): number => this.calls.filter(({ end }) => end === "ok").length;
    const wanted = answered() + count;
    while (answered() < wanted) await sleep(20);
  }

  /** Resolves when the replica has answered a request started from now on. */
  async answeredBy(replica: string): Promise<void> {
    const from = this.calls.length;
    while (!this.calls.slice(from).some((call) => call.end === "ok" && call.replica === replica)) await sleep(20);
  }

  /** Resolves when the last answer has arrived. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#clients);
  }
}
