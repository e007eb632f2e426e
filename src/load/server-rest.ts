import { setTimeout as sleep } from "node:timers/promises";
import type { Target } from "./http.ts";
import type { AtRest } from "./result.ts";
import { readMetrics } from "./server-metrics.ts";

const LOOK_MS = 250;
/** Bounds the time for the server to notice that connections are closed and to end their requests. */
const MOST_LOOKS = 40;

/**
 * What the idle server holds open: read after closing our own connections, once nothing runs and two readings agree.
 * Null if there are no metrics or it does not become idle, for instance because others use it.
 */
export async function readAtRest(target: Target, key: string | null): Promise<AtRest | null> {
  target.closeConnections();
  let last: AtRest | null = null;
  for (let look = 0; look < MOST_LOOKS; look++) {
    await sleep(LOOK_MS);
    const metrics = await readMetrics(target, key).catch(() => null);
    if (metrics === null) return null;
    const value = (name: string): number => metrics.get(name) ?? 0;
    const idle = value("prefixd_running_sequences") + value("prefixd_queue_depth") === 0;
    const now: AtRest = {
      open_files: value("process_open_fds"),
      active_resources: value("nodejs_active_resources_total"),
      event_listeners: ["process", "server", "connection"].reduce(
        (sum, on) => sum + value(`prefixd_event_listeners{on="${on}"}`),
        0,
      ),
    };
    const same =
      last !== null && Object.keys(now).every((name) => now[name as keyof AtRest] === last![name as keyof AtRest]);
    if (idle && same) return now;
    last = now;
  }
  return null;
}
