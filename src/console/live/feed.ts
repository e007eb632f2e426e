/** Follows `GET /admin/live`, and connects anew when it breaks. */
import { ApiError, asApiError, type Api } from "../api.ts";

export interface Steps {
  readonly runs: number;
  readonly tokens: number;
  readonly seconds: number;
}

export interface Totals {
  readonly steps: { readonly prefill: Steps; readonly decode: Steps };
  readonly first_token: {
    readonly bounds: readonly number[];
    readonly counts: readonly number[];
    readonly seconds: number;
  };
  readonly prefix_cache: { readonly hits: number; readonly misses: number };
  readonly requests: Readonly<Record<string, number>>;
}

export interface Row {
  readonly user: string;
  readonly prefix: string | null;
  readonly phase: "prefill" | "decode";
  readonly tokens: number;
  readonly of: number;
  readonly age_ms: number;
}

export interface LiveUser {
  readonly user: string;
  readonly weight: number;
  readonly rows: number;
  readonly waiting: number;
  readonly oldest_ms: number | null;
}

export interface Live {
  readonly at: string;
  readonly state: "serving" | "draining";
  readonly slots: number;
  readonly max_queue: number;
  readonly rows: readonly Row[];
  readonly users: readonly LiveUser[];
  readonly more_users: number;
  readonly waiting: number;
  readonly totals: Totals;
}

const LONGEST_PAUSE_MS = 10_000;

/** Calls back until the returned function is called. Tries again after 1, 2, 4, 8, then every 10 s. */
export function followLive(api: Api, onEvent: (live: Live) => void, onLost: (error: ApiError) => void): () => void {
  const stopped = new AbortController();
  const follow = async (): Promise<void> => {
    for (let pause = 1000; !stopped.signal.aborted; pause = Math.min(LONGEST_PAUSE_MS, 2 * pause)) {
      try {
        for await (const { data } of api.events("/admin/live", null, stopped.signal)) {
          pause = 500;
          onEvent(JSON.parse(data) as Live);
        }
        throw new ApiError(0, { title: "The stream ended", detail: "The server closed it." });
      } catch (error) {
        if (stopped.signal.aborted) return;
        onLost(asApiError(error));
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  };
  void follow();
  return () => stopped.abort();
}
