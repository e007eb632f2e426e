import { ConfigError } from "../errors.ts";
import { SseParser } from "../load/sse-parser.ts";
import { CommandError } from "./command-error.ts";

const DEFAULT_URL = "http://127.0.0.1:8080";

type Init = RequestInit & { headers?: Record<string, string> };

/**
 * Sends one request to a running server and returns the body as text; without `url`: PREFIXD_URL, then the default
 * address. Throws as `send`.
 */
export async function call(
  url: string | undefined,
  path: string,
  init: Init,
  key: string | undefined,
): Promise<string> {
  return (await send(url, path, init, key)).body.toString();
}

/** The same for JSON responses: the raw text, and the value as its route documents it. */
export async function callJson<T>(
  url: string | undefined,
  path: string,
  init: Init,
  key: string | undefined,
): Promise<{ text: string; value: T }> {
  const text = await call(url, path, init, key);
  const value = parseObject(text);
  if (value === null) throw new CommandError(`${addressOf(url, path)} did not answer as prefixd does`);
  return { text, value: value as T };
}

/** The same with the body's bytes and the headers. Throws ConfigError for an invalid address, else CommandError. */
export async function send(
  url: string | undefined,
  path: string,
  init: Init,
  key: string | undefined,
): Promise<{ body: Buffer; headers: Headers }> {
  const response = await open(url, path, init, key);
  return { body: await bodyOf(response), headers: response.headers };
}

/**
 * The same for a stream of server-sent events: each event's JSON, until `[DONE]`. Throws as `send`; also for an `error`
 * event and for a stream that ends early.
 */
export async function* streamEvents<T>(
  url: string | undefined,
  path: string,
  init: Init,
  key: string | undefined,
): AsyncGenerator<T, void, undefined> {
  const response = await open(url, path, init, key);
  const parser = new SseParser();
  const decoder = new TextDecoder();
  const body: ReadableStream<Uint8Array> = response.body ?? new ReadableStream();
  const chunks = body[Symbol.asyncIterator]();
  for (;;) {
    const chunk = await chunks.next().catch((error: unknown) => cutOff(response.url, error));
    if (chunk.done === true) return cutOff(response.url, "it has no end");
    for (const { event, data } of parser.push(decoder.decode(chunk.value, { stream: true }))) {
      if (data === "[DONE]") return;
      if (event === "error")
        throw new CommandError(problemText(data) ?? `${response.url} ended the stream with an error`);
      const value = parseObject(data);
      if (value === null) throw new CommandError(`${response.url} did not answer as prefixd does`);
      yield value as T;
    }
  }
}

/** The same for the bytes of a long answer, as they come. */
export async function* streamBytes(
  url: string | undefined,
  path: string,
  init: Init,
  key: string | undefined,
): AsyncGenerator<Uint8Array, void, undefined> {
  const response = await open(url, path, init, key);
  const body: ReadableStream<Uint8Array> = response.body ?? new ReadableStream();
  const chunks = body[Symbol.asyncIterator]();
  for (;;) {
    const chunk = await chunks.next().catch((error: unknown) => cutOff(response.url, error));
    if (chunk.done === true) return;
    yield chunk.value;
  }
}

function cutOff(address: string, reason: unknown): never {
  throw new CommandError(`the response of ${address} was cut off (${reasonOf(reason)})`);
}

const bodyOf = async (response: Response): Promise<Buffer> =>
  Buffer.from(await response.arrayBuffer().catch((error: unknown): never => cutOff(response.url, error)));

/** Sends the request and returns the response when its head has come. */
async function open(url: string | undefined, path: string, init: Init, key: string | undefined): Promise<Response> {
  const address = addressOf(url, path);
  const headers = { ...init.headers, ...(key === undefined ? {} : { authorization: `Bearer ${key}` }) };
  const response = await fetch(address, { ...init, headers }).catch((error: unknown) => {
    throw new CommandError(`no server answers at ${address.slice(0, -path.length)} (${reasonOf(error)})`);
  });
  if (response.ok) return response;
  const problem = problemText((await bodyOf(response)).toString());
  const why = problem ?? `${address} answered ${response.status} ${response.statusText}`;
  throw new CommandError(`${why}${hintOf(response.status, problem, key)}`);
}

/** What to do about it, where the server cannot know. */
function hintOf(status: number, problem: string | null, key: string | undefined): string {
  if (status === 401)
    return key === undefined
      ? "\n  no key was sent: give PREFIXD_KEY or --key-file FILE"
      : "\n  the server does not know the key that was sent; it may be mistyped, expired or deleted";
  return problem?.includes("  prefix_not_found,") === true
    ? "\n  prefixd list shows the prefixes that you may use"
    : "";
}

function addressOf(given: string | undefined, path: string): string {
  const variable = process.env["PREFIXD_URL"] || undefined;
  const base = given ?? variable ?? DEFAULT_URL;
  const source = given === undefined && variable !== undefined ? "PREFIXD_URL" : "--url";
  const url = URL.canParse(base) ? new URL(base) : null;
  if (url === null || !/^https?:$/.test(url.protocol))
    throw new ConfigError(`${source} ${base}: expected an address such as ${DEFAULT_URL}`);
  if (url.username !== "" || url.password !== "")
    throw new ConfigError(`${source}: must not contain a user or password; the key has its own variable`);
  return `${url.origin}${url.pathname.replace(/\/+$/, "")}${path}`;
}

/** fetch nests the reason of a failure; one level deeper if a name has several addresses. */
function reasonOf(error: unknown): string {
  let reason = error;
  while (reason instanceof Error && (reason.cause instanceof Error || reason instanceof AggregateError)) {
    reason = reason instanceof AggregateError ? reason.errors[0] : reason.cause;
  }
  return reason instanceof Error ? reason.message : String(reason);
}

/** A problem (RFC 9457) as text: the detail, each invalid field, the code and the request id. null if it is not one. */
export function problemText(body: string): string | null {
  const problem = parseObject(body);
  if (problem === null || typeof problem["detail"] !== "string" || typeof problem["code"] !== "string") return null;
  const fields = Array.isArray(problem["errors"]) ? problem["errors"].map(fieldText) : [];
  const request = typeof problem["request_id"] === "string" ? `, request ${problem["request_id"]}` : "";
  return [problem["detail"], ...fields, `  ${problem["code"]}${request}`].join("\n");
}

/** One of a problem's `errors`: the place in the request and what is wrong there. */
function fieldText(field: unknown): string {
  const { pointer, detail } = (typeof field === "object" ? (field ?? {}) : {}) as Record<string, unknown>;
  const place = typeof pointer === "string" ? `${pointer}: ` : "";
  return `  ${place}${typeof detail === "string" ? detail : String(field)}`;
}

function parseObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}
