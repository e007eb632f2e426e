import type { CallRecord } from "./client.ts";
import { Milliseconds } from "./histogram.ts";
import type { StreamLumps } from "./result.ts";

/** Events less than this many milliseconds apart arrived with one read, or travelled together. */
const TOGETHER_MS = 1;
/**
 * A lump: at least this many tokens per choice at once, after a pause of at least this many milliseconds. A server
 * sends each token as it is generated.
 */
const [LUMP_EVENTS, LUMP_WAIT_MS] = [4, 40];
/** Minimum sample size. */
const LEAST_EVENTS = 100;
/** Above this share of a run's events, something is buffering streams. */
const MOST_IN_LUMPS = 0.5;

/** Tells whether streams arrived token by token, or in lumps that something between server and client collected. */
export class Lumps {
  #events = 0;
  #inLumps = 0;
  readonly #waits = new Milliseconds();

  /** Records a stream, unless its reader was slow on purpose. */
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

/** Warns if most tokens came in lumps, unless the client itself lagged (p99 `lagMs`) for as long as the pauses. */
export function lumpWarnings(
  { events, in_lumps, wait_p50 }: StreamLumps,
  lagMs: number,
): { name: string; text: string }[] {
  if (events < LEAST_EVENTS || in_lumps < events * MOST_IN_LUMPS || wait_p50 < 2 * lagMs) return [];
  const text =
    `${((in_lumps / events) * 100).toFixed(0)} % of the streams' events came several at once, after pauses of ${wait_p50.toFixed(0)} ms (median): something between the server and this client ` +
    "buffers them, most likely a proxy (HAProxy needs `option http-no-delay`, nginx `proxy_buffering off`). TTFT and inter-token latency include that";
  return [{ name: "streams_in_lumps", text }];
}
