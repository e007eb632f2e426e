/** The server's public API, as the pages use it. Types have the fields that they show. */
import { readEvents, type ServerEvent } from "./events.ts";

export interface Prefix {
  readonly id: string;
  readonly kind: string;
  readonly digest: string;
  readonly virtual_tokens: number;
  readonly bytes: number;
  readonly base_model_name_or_path: string | null;
  readonly warnings: readonly { readonly detail: string }[];
  readonly updated_at: string;
  readonly access: "owner" | "read" | "use";
  readonly visibility: "private" | "shared";
  /** In the answer for one prefix, to its owner. */
  readonly shared_with?: readonly string[];
  readonly readable_by?: readonly string[];
}

export interface Model {
  readonly model: string;
  readonly fingerprint: string;
  readonly layers: number;
  readonly n_positions: number;
  readonly device: string;
  readonly precision: string;
  readonly base_model: boolean;
  readonly limits: { readonly max_batch: number; readonly max_queue: number };
}

export const LIMITS = {
  max_running: "Rows at once",
  max_queued: "Waiting at once",
  tokens_per_minute: "Tokens a minute",
  max_prefixes: "Prefixes",
  max_prefix_bytes: "Prefix bytes",
} as const;
export type Limits = Readonly<Record<keyof typeof LIMITS, number | null>>;

export interface User {
  readonly id: string;
  readonly weight: number;
  readonly limits: Limits;
  readonly created_at: string;
}

export interface Usage {
  readonly requests: number;
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
}

export interface UserDetail extends User {
  readonly keys: readonly {
    readonly key_id: string;
    readonly created_at: string;
    readonly expires_at: string | null;
  }[];
  readonly prefixes: { readonly count: number; readonly bytes: number };
  readonly usage: Usage;
}

export interface Receipt {
  readonly user: string;
  readonly removed: Readonly<Record<"prefixes" | "keys" | "bytes" | "running" | "queued", number>>;
  readonly replicas: readonly { readonly id: string; readonly acknowledged_at: string | null }[];
  readonly completed_at: string;
}

/** An error answer, or none at all (`status` 0). */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;
  readonly code: string;
  readonly title: string;
  readonly requestId: string;
  /** Seconds; null: waiting will not help. */
  readonly retryAfter: number | null;

  constructor(
    status: number,
    problem: { title?: string; detail?: string; code?: string; request_id?: string },
    retryAfter: number | null = null,
  ) {
    super(problem.detail ?? "The server gave no reason.");
    this.status = status;
    this.code = problem.code ?? "";
    this.title = problem.title ?? `Status ${status}`;
    this.requestId = problem.request_id ?? "";
    this.retryAfter = retryAfter;
  }
}

export const asApiError = (error: unknown): ApiError =>
  error instanceof ApiError
    ? error
    : new ApiError(0, { title: `No answer from ${location.host}`, detail: "Is the server running?" });

export class Api {
  /** In this tab's memory only. null: none is needed. */
  #key: string | null;
  readonly #onUnauthorized: () => void;

  /** @param onUnauthorized the key is no longer good */
  constructor(key: string | null, onUnauthorized: () => void) {
    this.#key = key;
    this.#onUnauthorized = onUnauthorized;
  }

  useKey(key: string): void {
    this.#key = key;
  }

  /** Whether requests carry a key. */
  get keyed(): boolean {
    return this.#key !== null;
  }

  get<T>(path: string, signal?: AbortSignal): Promise<T> {
    return this.#json<T>("GET", path, undefined, signal);
  }

  send<T>(method: "POST" | "PUT" | "PATCH" | "DELETE", path: string, body?: object): Promise<T> {
    return this.#json<T>(method, path, body);
  }

  /** Throws ApiError, also for an error that ends the stream; an AbortError if `signal` is aborted. */
  async *events(path: string, body: object | null, signal: AbortSignal): AsyncGenerator<ServerEvent> {
    const response = await this.#fetch(body === null ? "GET" : "POST", path, body ?? undefined, signal);
    for await (const event of readEvents(response.body!)) {
      if (event.name === "error") {
        const problem = JSON.parse(event.data) as { status: number; code: string };
        throw new ApiError(problem.status, problem);
      }
      if (event.data !== "[DONE]") yield event;
    }
  }

  /** All pages of a list, up to `most` items. */
  async list<T>(path: string, field: string, most = 5000): Promise<T[]> {
    const items: T[] = [];
    for (let after: string | null = ""; after !== null && items.length < most; ) {
      const page: Record<string, unknown> = await this.get(
        `${path}?limit=1000${after === "" ? "" : `&after=${encodeURIComponent(after)}`}`,
      );
      items.push(...(page[field] as T[]));
      after = page["next"] as string | null;
    }
    return items;
  }

  async #json<T>(method: string, path: string, body?: object, signal?: AbortSignal): Promise<T> {
    const response = await this.#fetch(method, path, body, signal);
    return (response.status === 204 ? undefined : await response.json()) as T;
  }

  async #fetch(method: string, path: string, body?: object, signal?: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = {};
    if (this.#key !== null) headers["authorization"] = `Bearer ${this.#key}`;
    const form = body instanceof FormData;
    if (body !== undefined && !form) headers["content-type"] = "application/json";
    const response = await fetch(path, {
      method,
      headers,
      cache: "no-store",
      credentials: "omit",
      ...(body === undefined ? {} : { body: form ? body : JSON.stringify(body) }),
      ...(signal === undefined ? {} : { signal }),
    });
    if (response.ok) return response;
    if (response.status === 401) this.#onUnauthorized();
    const problem = (await response.json().catch(() => ({}))) as object;
    const wait = response.headers.get("retry-after");
    throw new ApiError(response.status, problem, wait === null ? null : Number(wait));
  }
}
