/** A server that speaks as much of prefixd as the load test needs, with a model of its own: token i of an answer is prompt[0] + i. */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface FakeOptions {
  /** Between two tokens. */
  readonly tokenMs?: number;
  /** Streams begin only when so many are open. */
  readonly together?: number;
  /** The request of this number, counted from 1 and without those of preparing, begins a stall of `ms` in which nothing is answered. */
  readonly stall?: { readonly atRequest: number; readonly ms: number };
  /** Answers requests before they reach the model. */
  /** What `GET /model` answers; without it there is no such route. */
  readonly model?: object;
  readonly intercept?: (body: GenerateRequest, response: ServerResponse) => boolean;
}

export interface GenerateRequest {
  readonly prompt: number[];
  readonly max_new_tokens: number;
  readonly prefix_id?: string;
  readonly stream?: boolean;
}

export interface FakePrefixd {
  readonly url: string;
  readonly prefixes: ReadonlyMap<string, string>;
  close(): Promise<void>;
}

export async function startFakePrefixd({
  tokenMs = 1,
  together = 0,
  stall,
  model,
  intercept,
}: FakeOptions = {}): Promise<FakePrefixd> {
  const prefixes = new Map<string, string>();
  let asked = 0;
  let stalledUntil = Promise.resolve();
  let waiting: (() => void)[] = [];
  const server = createServer((request, response) => void handle(request, response));
  server.listen(0, "127.0.0.1", 4096);
  await new Promise((resolve) => server.once("listening", resolve));

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    const bytes = Buffer.concat(pieces);
    const [, first, name = ""] = (request.url ?? "").split("?")[0]!.split("/");
    if (first === "generate") return generate(JSON.parse(bytes.toString()) as GenerateRequest, response);
    if (first === "health") return json(response, 200, { status: "ready" });
    if (first === "model" && model !== undefined) return json(response, 200, model);
    if (first === "metrics")
      return void response.end(
        "process_resident_memory_bytes 104857600\nprocess_open_fds 20\nnodejs_active_resources_total 5\n",
      );
    if (first !== "prefixes") return json(response, 404, { code: "not_found" });
    if (request.method === "PUT") {
      const digest = createHash("sha256").update(bytes).digest("hex");
      const known = prefixes.has(name);
      prefixes.set(name, digest);
      response.setHeader("etag", `"${digest}"`);
      return json(response, known ? 200 : 201, { id: name, digest });
    }
    if (request.method === "DELETE")
      return json(response, prefixes.delete(name) ? 204 : 404, { code: "prefix_not_found" });
    json(response, 200, { prefixes: [], next: null });
  }

  async function generate(body: GenerateRequest, response: ServerResponse): Promise<void> {
    if (stall !== undefined && ++asked === stall.atRequest)
      stalledUntil = new Promise((resolve) => setTimeout(resolve, stall.ms));
    await stalledUntil;
    if (intercept?.(body, response) === true) return;
    const digest = body.prefix_id === undefined ? null : prefixes.get(body.prefix_id);
    if (digest === undefined) return json(response, 404, { code: "prefix_not_found" });
    const tokens = Array.from({ length: body.max_new_tokens }, (_, index) => ({
      id: (body.prompt[0] ?? 0) + index,
      logprob: -1 / (index + 1),
    }));
    const end = {
      id: "gen",
      model: "fake",
      seed: 0,
      prefix: digest === null ? null : { id: body.prefix_id, digest },
      usage: { prefix_tokens: 1, prompt_tokens: body.prompt.length, completion_tokens: tokens.length },
    };
    const choice = (some: typeof tokens, finish_reason: string | null): object => ({
      index: 0,
      text: some.map(({ id }) => `${id} `).join(""),
      token_ids: some.map(({ id }) => id),
      logprobs: { token_logprobs: some.map(({ logprob }) => logprob), top_logprobs: [] },
      finish_reason,
    });
    if (body.stream !== true) return json(response, 200, { ...end, choices: [choice(tokens, "length")] });
    await companions();
    response.writeHead(200, { "content-type": "text/event-stream" });
    const step = (index: number): void => {
      if (response.destroyed) return;
      const last = index === tokens.length - 1;
      response.write(
        `data: ${JSON.stringify({ ...(last ? end : {}), choices: [choice(tokens.slice(index, index + 1), last ? "length" : null)] })}\n\n`,
      );
      if (last) return void response.end("data: [DONE]\n\n");
      setTimeout(step, tokenMs, index + 1);
    };
    step(0);
  }

  /** Resolves when as many streams wait as shall begin together. */
  function companions(): Promise<void> {
    if (together === 0) return Promise.resolve();
    return new Promise((resolve) => {
      waiting.push(resolve);
      if (waiting.length < together) return;
      for (const begin of waiting) begin();
      waiting = [];
    });
  }

  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    prefixes,
    close: () => new Promise((resolve) => (server.close(() => resolve()), server.closeAllConnections())),
  };
}

function json(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(status === 204 ? undefined : JSON.stringify(body));
}
