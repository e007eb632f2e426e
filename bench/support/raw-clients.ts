/**
 * Streaming clients with minimal cost, in their own process: raw sockets on which one request follows another, whose
 * events are counted but not parsed.
 */
import { connect } from "node:net";

export interface Load {
  readonly port: number;
  readonly path: string;
  readonly clients: number;
  /** Readers of `GET /admin/live`, whose events are not counted. */
  readonly live?: number;
  /** JSON bodies of the requests, used in turn; client i starts with body i. */
  readonly bodies: readonly string[];
}

export type Command =
  | { readonly kind: "load"; readonly load: Load }
  | { readonly kind: "count" }
  | { readonly kind: "stop" };

/** So far: events with a token, and this process's processor time in microseconds. */
export interface Count {
  readonly events: number;
  readonly cpu: number;
  readonly error: string | null;
}

const EVENT = Buffer.from("data: {");
const LAST_CHUNK = "0\r\n\r\n";

let events = 0;
let error: string | null = null;

process.on("message", (command: Command) => {
  if (command.kind === "load") {
    for (let client = 0; client < command.load.clients; client++) stream(command.load, client);
    for (let reader = 0; reader < (command.load.live ?? 0); reader++) readLive(command.load.port);
  }
  if (command.kind === "stop") process.exit(0);
  if (command.kind !== "count") return;
  const { user, system } = process.cpuUsage();
  process.send!({ events, cpu: user + system, error } satisfies Count);
});
process.on("disconnect", () => process.exit(0));
process.send!("ready");

/** Reads and forgets; an error if there is nothing to read. */
function readLive(port: number): void {
  const socket = connect(port, "127.0.0.1", () => socket.write("GET /admin/live HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  socket.once("data", (data) => {
    if (!data.toString("latin1").startsWith("HTTP/1.1 200")) error ??= data.toString();
  });
  socket.on("data", () => {});
  socket.on("close", () => (error ??= "the live feed ended"));
  socket.on("error", () => {});
}

function stream({ port, path, bodies }: Load, client: number): void {
  let next = client;
  let tail = "";
  let status = "";
  const buffer = Buffer.allocUnsafe(1 << 16);
  const send = (): void => {
    const body = bodies[next++ % bodies.length]!;
    status = "";
    socket.write(
      `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    );
  };
  const onRead = (bytes: number): boolean => {
    const data = buffer.subarray(0, bytes);
    status ||= data.toString("latin1", 9, 12);
    if (status !== "200") error ??= data.toString();
    for (let at = data.indexOf(EVENT); at >= 0; at = data.indexOf(EVENT, at + EVENT.length)) events++;
    tail = (tail + data.toString("latin1", Math.max(0, bytes - LAST_CHUNK.length))).slice(-LAST_CHUNK.length);
    if (tail === LAST_CHUNK) send();
    return true;
  };
  const socket = connect({ port, host: "127.0.0.1", onread: { buffer, callback: onRead } });
  socket.on("error", (failure) => (error ??= String(failure)));
  socket.on("connect", send);
}
