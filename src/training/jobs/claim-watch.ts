import { CLAIM_MS } from "./store.ts";

const LOOK_MS = CLAIM_MS / 10;

/**
 * Calls `onLapse` once nothing has been heard of the claim for CLAIM_MS. Returns what to call when it was renewed. A look that
 * comes late, after an update that blocked this thread, is repeated first: what was said meanwhile has not been read yet.
 */
export function watchClaim(
  onLapse: () => void,
  now: () => number = () => performance.now(),
  every: (ms: number, look: () => void) => unknown = (ms, look) => setInterval(look, ms).unref(),
): () => void {
  let [heard, looked] = [now(), now()];
  every(LOOK_MS, () => {
    const isLate = now() - looked > 2 * LOOK_MS;
    looked = now();
    if (!isLate && now() - heard > CLAIM_MS) onLapse();
  });
  return () => void (heard = now());
}
