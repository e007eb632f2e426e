import { Agent, request as httpRequest, type ClientRequest, type IncomingMessage } from "node:http";
import { Agent as SecureAgent, request as httpsRequest } from "node:https";
import { ScenarioError } from "./scenario.ts";

/** The run cannot continue: the server does not answer, or refuses something the run needs. */
export class LoadError extends Error {
  override readonly name = "LoadError";
}

export interface Answer {
  readonly status: number;
  readonly text: string;
  readonly etag: string | null;
}

/** One server, or the load balancer in front of several. Keeps connections alive, in unlimited number. */
export class Target {
  readonly url: string;
  readonly #base: URL;
  readonly #agent: Agent;

  constructor(url: string) {
    this.#base = parseUrl(url);
    this.url = this.#base.origin;
    const options = { keepAlive: true, maxSockets: Infinity, noDelay: true };
    this.#agent = this.#base.protocol === "https:" ? new SecureAgent(options) : new Agent(options);
  }

  /** Starts a request; the caller sends the body. */
  open(method: string, path: string, headers: Readonly<Record<string, string | number>>): ClientRequest {
    const { protocol, hostname, port, pathname } = this.#base;
    const send = protocol === "https:" ? httpsRequest : httpRequest;
    return send({
      protocol,
      hostname: hostname.replace(/^\[|\]$/g, ""),
      port,
      path: pathname.replace(/\/$/, "") + path,
      method,
      headers,
      agent: this.#agent,
    });
  }

  /**
   * Sends a whole request and returns the answer, whatever its status. Rejects with LoadError after `timeoutMs` without
   * one.
   */
  call(
    method: string,
    path: string,
    key: string | null,
    body?: { readonly type: string; readonly bytes: Uint8Array },
    timeoutMs = 60_000,
  ): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const fail = (error: Error): void =>
        reject(new LoadError(`${method} ${this.url}${path}: ${error.message || error.name}`));
      const headers = {
        ...authorization(key),
        ...(body ? { "content-type": body.type, "content-length": body.bytes.length } : {}),
      };
      const request = this.open(method, path, headers);
      request.setTimeout(timeoutMs, () => request.destroy(new Error(`no answer within ${timeoutMs / 1000} s`)));
      request.on("error", fail);
      request.on("response", (response) => {
        readText(response).then(
          (text) => resolve({ status: response.statusCode ?? 0, text, etag: response.headers.etag ?? null }),
          fail,
        );
      });
      request.end(body?.bytes);
    });
  }

  /** Closes all connections; the next request opens a new one. */
  closeConnections(): void {
    this.#agent.destroy();
  }
}

export const authorization = (key: string | null): Record<string, string> =>
  key === null ? {} : { authorization: `Bearer ${key}` };

export const json = (value: unknown): { type: string; bytes: Uint8Array } => ({
  type: "application/json",
  bytes: Buffer.from(JSON.stringify(value)),
});

/** Collects a body; rejects if it ends early. */
export function readText(response: IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    response.setEncoding("utf8");
    response.on("data", (chunk: string) => (text += chunk));
    response.on("end", () => resolve(text));
    response.on("error", reject);
    response.on("close", () => reject(new Error("the connection closed in the middle of the answer")));
  });
}

/** The code of a problem document, or a substitute such as `http_502`. */
export function problemCode(status: number, text: string): string {
  try {
    const body = JSON.parse(text) as { code?: unknown } | null;
    if (typeof body?.code === "string") return body.code;
  } catch {
    // Not JSON: something between us and the server answered.
  }
  return `http_${status}`;
}

function parseUrl(text: string): URL {
  if (!URL.canParse(text)) throw new ScenarioError(`--url ${text}: not an address`);
  const url = new URL(text);
  if (url.protocol !== "http:" && url.protocol !== "https:")
    throw new ScenarioError(`--url ${text}: expected http or https`);
  return url;
}
