import type { CallRecord } from "./client.ts";
import { Milliseconds } from "./histogram.ts";
import type { StreamLumps } from "./result.ts";

/** Events less than this apart, in milliseconds, came with one read, or were on the way together. */
const TOGETHER_MS = 1;
/** So many tokens of each choice at once, after a pause of so many milliseconds, are a lump: a server sends each token as it is made. */
const [LUMP_EVENTS, LUMP_WAIT_MS] = [4, 40];
/** Fewer say nothing. */
const LEAST_EVENTS = 100;
/** Above this share of a run's events something holds streams back. */
const MOST_IN_LUMPS = 0.5;

/** How streams arrived: token by token, or in lumps that somebody between server and client has gathered. */
export class Lumps {
  #events = 0;
  #inLumps = 0;
  readonly #waits = new Milliseconds();

  /** Of a stream whose reader was not slow by itself. */
  record({ sentAt, firstTokenAt, gaps, choices }: CallRecord): void {
    if (firstTokenAt === null) return;
    let [together, wait] = [1, firstTokenAt - sentAt];
    const end = (): void => {
      if (together < LUMP_EVENTS * choices || wait < LUMP_WAIT_MS) return;
      this.#inLumps += together;
      this.#waits.record(wait);
    };
    for (const gap of gaps) {
      if (gap < TOGETHER_MS) {
        together++;
        continue;
      }
      end();
      [together, wait] = [1, gap];
    }
    end();
    this.#events += gaps.length + 1;
  }

  result(): StreamLumps {
    return { events: this.#events, in_lumps: this.#inLumps, wait_p50: this.#waits.at(50) };
  }
}

/** A warning where most tokens came in lumps; not where the client itself was away for as long as the pauses took (`lagMs`: its p99). */
export function lumpWarnings(
  { events, in_lumps, wait_p50 }: StreamLumps,
  lagMs: number,
): { name: string; text: string }[] {
  if (events < LEAST_EVENTS || in_lumps < events * MOST_IN_LUMPS || wait_p50 < 2 * lagMs) return [];
  const text =
    `${((in_lumps / events) * 100).toFixed(0)} % of the streams' events came several at once, after pauses of ${wait_p50.toFixed(0)} ms in the middle: something between the server and this client holds ` +
    "them back, most likely a proxy that buffers (HAProxy wants `option http-no-delay`, nginx `proxy_buffering off`). TTFT and inter-token latency are what it made of them";
  return [{ name: "streams_in_lumps", text }];
}
