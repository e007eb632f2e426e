/** HTTP by hand, over a real socket: it also sends what no client library would. */
import { createConnection, type Socket } from "node:net";

export interface RawRequest {
  readonly method: string;
  /** Path and query as they stand in the request line. */
  readonly target: string;
  /** Beside Host, Connection and Content-Length. Sent as latin1. */
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: Uint8Array | null;
}

export interface RawResponse {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer;
}

/** GET /admin/live and how its events begin. It has no end: it is left after the first event, or cut before it. */
const ENDLESS = ["/admin/live", 'data: {"at":'] as const;

/** Longest time that any answer may take, ms; far more than the slowest takes. */
const ANSWER_MS = 30_000;

export function requestBytes({ method, target, headers, body }: RawRequest): Buffer {
  const own = new Set(headers.map(([name]) => name.toLowerCase()));
  const lines = [`${method} ${target} HTTP/1.1`];
  if (!own.has("host")) lines.push("Host: 127.0.0.1");
  lines.push("Connection: close", ...headers.map(([name, value]) => `${name}: ${value}`));
  if (body !== null && !own.has("content-length") && !own.has("transfer-encoding"))
    lines.push(`Content-Length: ${body.length}`);
  return Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"), body ?? Buffer.alloc(0)]);
}

/**
 * Sends bytes on a connection of their own and reads until the server closes it; null: it closed without an answer. With `hangUp` the
 * client says that nothing more comes, and a chunked body may be cut. Rejects when the server neither closes in time nor answers with HTTP.
 */
export async function exchange(port: number, bytes: Uint8Array, { hangUp = false } = {}): Promise<RawResponse | null> {
  const socket = createConnection({ port, host: "127.0.0.1", allowHalfOpen: true });
  const chunks: Buffer[] = [];
  let endless = Buffer.from(bytes).includes(ENDLESS[0]);
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(
      () =>
        reject(
          new Error(
            `no end of the answer within ${ANSWER_MS} ms: ${Buffer.concat(chunks).toString("latin1").slice(0, 200)}`,
          ),
        ),
      ANSWER_MS,
    );
    socket.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      endless ||= chunk.includes(ENDLESS[1]);
      if (endless && chunk.toString("latin1").endsWith("\n\n\r\n")) resolve();
    });
    // A server that refuses early may close while the request is still being written.
    socket.on("error", () => resolve());
    socket.on("end", resolve);
    socket.on("close", () => clearTimeout(timer));
    socket.write(bytes);
    if (hangUp) socket.end();
  }).finally(() => socket.destroy());
  const all = Buffer.concat(chunks);
  // A streamed answer to a client that has hung up is cut where it is: Node's server ends its side, too.
  return all.length === 0 ? null : parseResponse(all, endless || hangUp);
}

/** The last response in `bytes`; interim ones (1xx) before it are skipped. With `endless` its body may be cut. */
export function parseResponse(bytes: Buffer, endless = false): RawResponse {
  const end = bytes.indexOf("\r\n\r\n");
  const [first = "", ...lines] = bytes.subarray(0, Math.max(0, end)).toString("latin1").split("\r\n");
  const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(first)?.[1]);
  if (Number.isNaN(status)) throw new Error(`not HTTP: ${bytes.toString("latin1").slice(0, 200)}`);
  const rest = bytes.subarray(end + 4);
  if (status < 200) return parseResponse(rest, endless);
  const headers = new Map(
    lines.map((line) => [line.slice(0, line.indexOf(":")).toLowerCase(), line.slice(line.indexOf(":") + 1).trim()]),
  );
  return { status, headers, body: headers.get("transfer-encoding") === "chunked" ? unchunk(rest, endless) : rest };
}

function unchunk(bytes: Buffer, endless: boolean): Buffer {
  const chunks: Buffer[] = [];
  for (let at = 0; ; ) {
    const lineEnd = bytes.indexOf("\r\n", at);
    const size = parseInt(bytes.subarray(at, lineEnd).toString("latin1"), 16);
    if (lineEnd < 0 && endless) return Buffer.concat(chunks);
    if (lineEnd < 0 || Number.isNaN(size)) throw new Error("the chunked body ends too early");
    if (size === 0) return Buffer.concat(chunks);
    chunks.push(bytes.subarray(lineEnd + 2, lineEnd + 2 + size));
    at = lineEnd + 2 + size + 2;
  }
}

/** Connected, and kept open until it is destroyed. */
export async function openSocket(port: number): Promise<Socket> {
  const socket = createConnection({ port, host: "127.0.0.1" });
  await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
  socket.on("error", () => {});
  return socket;
}
