import type { Readable } from "node:stream";
import { request, type IncomingMessage } from "node:http";
import { connect, type Socket } from "node:net";

export interface SseEvent {
  readonly event: string;
  readonly data: string;
}

/** A POST of JSON over a real socket; resolves with the headers. */
export function open(
  port: number,
  path: string,
  body: object,
  headers: Record<string, string> = {},
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      {
        agent: false,
        host: "127.0.0.1",
        port,
        path,
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
      },
      resolve,
    );
    outgoing.on("error", reject);
    outgoing.end(JSON.stringify(body));
  });
}

export async function readAll(response: Readable): Promise<string> {
  let text = "";
  for await (const chunk of response.setEncoding("utf8")) text += String(chunk);
  return text;
}

export function parseSse(text: string): SseEvent[] {
  const blocks = text.split("\n\n").filter((block) => block !== "" && !block.startsWith(":"));
  return blocks.map((block) => {
    const fields = new Map(
      block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]),
    );
    return { event: fields.get("event") ?? "message", data: fields.get("data") ?? "" };
  });
}

/** Sends bytes to a port; resolves with whatever comes back until the other side closes. */
export function raw(port: number, bytes: string): Promise<string> {
  return new Promise((resolve) => {
    let text = "";
    const socket: Socket = connect(port, "127.0.0.1", () => socket.write(bytes));
    socket.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
    socket.on("error", () => undefined).on("close", () => resolve(text));
  });
}
