import { setTimeout as sleep } from "node:timers/promises";

/** Milliseconds that a reader who was slow may catch up. */
const BURST_MS = 1000;

/** The bytes at no more than this many a second. `check` throws to end them; it is called before each piece. */
export async function* paced(
  bytes: AsyncIterable<Uint8Array>,
  { rate, check }: { readonly rate: number; readonly check: () => void },
): AsyncGenerator<Uint8Array> {
  /** When the next piece may go. */
  let due = performance.now();
  for await (const piece of bytes) {
    const now = performance.now();
    if (due > now) await sleep(due - now);
    check();
    yield piece;
    due = Math.max(due, performance.now() - BURST_MS) + (piece.length / rate) * 1000;
  }
}
