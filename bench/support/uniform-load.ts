/** Clients that stream answers with uniformly drawn prefixes. */
import type { Readable } from "node:stream";
import { request } from "node:http";

export interface Load {
  readonly url: string;
  readonly clients: number;
  readonly requests: number;
  readonly newTokens: number;
  /** The next request's prefix. */
  readonly prefix: () => string;
  readonly prompt: readonly number[];
}

export interface LoadFigures {
  readonly tokensPerSecond: number;
  /** Milliseconds. */
  readonly interToken: readonly number[];
  readonly firstToken: readonly number[];
}

/** Runs `clients` concurrent streams until `requests` have been answered. */
export async function uniformLoad(load: Load): Promise<LoadFigures> {
  const [interToken, firstToken]: [number[], number[]] = [[], []];
  let left = load.requests;
  const started = performance.now();
  const client = async (): Promise<void> => {
    while (left-- > 0) {
      let last = performance.now();
      let tokens = 0;
      for await (const event of events(load)) {
        if (!event.includes('"finish_reason":null')) continue;
        const now = performance.now();
        (tokens++ === 0 ? firstToken : interToken).push(now - last);
        last = now;
      }
      if (tokens < load.newTokens - 1) throw new Error(`${tokens} tokens of ${load.newTokens}`);
    }
  };
  await Promise.all(Array.from({ length: load.clients }, client));
  return {
    tokensPerSecond: (load.requests * load.newTokens * 1000) / (performance.now() - started),
    interToken,
    firstToken,
  };
}

async function* events({ url, prompt, prefix, newTokens }: Load): AsyncGenerator<string> {
  const body = JSON.stringify({
    prompt,
    prefix_id: prefix(),
    max_new_tokens: newTokens,
    ignore_eos: true,
    stream: true,
  });
  const response = await new Promise<Readable>((resolve, reject) => {
    const call = request(
      `${url}/generate`,
      { method: "POST", headers: { "content-type": "application/json", "content-length": Buffer.byteLength(body) } },
      (answer) => {
        if (answer.statusCode === 200) resolve(answer);
        else reject(new Error(`status ${answer.statusCode}`));
      },
    );
    call.on("error", reject);
    call.end(body);
  });
  let text = "";
  for await (const piece of response.setEncoding("utf8")) {
    const whole = (text + String(piece)).split("\n\n");
    text = whole.pop()!;
    yield* whole;
  }
}
