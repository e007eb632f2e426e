/** What every generated client is asked to do. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { EventSourceParserStream } from "eventsource-parser/stream";

export const BASE = process.env["PREFIXD_URL"]!;
export const KEY = process.env["PREFIXD_KEY"]!;
export const PROMPT = "i would like to report my american express card stolen\n=>";

const folder = process.env["ADAPTER"]!;
const blob = (name: string): File => new File([readFileSync(join(folder, name))], name);

/** PEFT's two files. */
export const ADAPTER = {
  adapter_config: blob("adapter_config.json"),
  adapter_model: blob("adapter_model.safetensors"),
};

export function expect(fine: boolean, what: string): asserts fine {
  if (!fine) throw new Error(what);
}

/** The data of server-sent events as it comes, up to the end mark. */
export async function* dataOf(body: ReadableStream<Uint8Array>): AsyncGenerator<unknown, void> {
  const events = body.pipeThrough(new TextDecoderStream() as never).pipeThrough(new EventSourceParserStream());
  for await (const { event, data } of events as ReadableStream<{ event?: string; data: string }>) {
    if (event === "error") throw new Error(data);
    if (data === "[DONE]") return;
    yield JSON.parse(data);
  }
  throw new Error("the stream ended without [DONE]");
}
