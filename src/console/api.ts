/** The server's public API, as the pages use it. Types have the fields that they show. */
import { readEvents, type ServerEvent } from "./events.ts";

export interface Prefix {
  readonly id: string;
  readonly kind: string;
  readonly digest: string;
  readonly virtual_tokens: number;
  readonly bytes: number;
  /** The uploaded files: name and bytes. */
  readonly files: Readonly<Record<string, number>>;
  /** In the server's memory; null: not for whom it is shared with. */
  readonly resident: boolean | null;
  readonly base_model_name_or_path: string | null;
  readonly warnings: readonly { readonly detail: string }[];
  readonly updated_at: string;
  readonly access: "owner" | "read" | "use";
  readonly visibility: "private" | "shared";
  /** In the answer for one prefix, to its owner. */
  readonly shared_with?: readonly string[];
  readonly readable_by?: readonly string[];
}

export interface PrefixVersion {
  readonly digest: string;
  readonly current: boolean;
  readonly virtual_tokens: number;
  readonly bytes: number;
  readonly updated_at: string;
  /** A key's id, an admin key's with `sha256:`; a training job's; `local`: there are no keys; null: not known. */
  readonly updated_by: string | null;
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
  readonly suspended: boolean;
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
  readonly removed: Readonly<
    Record<
      "prefixes" | "keys" | "bytes" | "running" | "queued" | "training_files" | "training_jobs" | "training_bytes",
      number
    >
  >;
  readonly replicas: readonly { readonly id: string; readonly acknowledged_at: string | null }[];
  readonly completed_at: string;
}

/** An error as the routes tell it: a problem document, or OpenAI's under /v1. */
interface Told {
  readonly title?: string;
  readonly detail?: string;
  readonly code?: string;
  readonly request_id?: string;
  readonly error?: { readonly message?: string; readonly code?: string };
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

  constructor(status: number, told: Told, retryAfter: number | null = null) {
    super(told.detail ?? told.error?.message ?? "The server gave no reason.");
    this.status = status;
    this.code = told.code ?? told.error?.code ?? "";
    this.title = told.title ?? `Status ${status}`;
    this.requestId = told.request_id ?? "";
    this.retryAfter = retryAfter;
  }
}

export const asApiError = (error: unknown): ApiError =>
  error instanceof ApiError
    ? error
    : new ApiError(0, { title: `No answer from ${location.host}`, detail: "Is the server running?" });

interface SendOptions {
  readonly signal?: AbortSignal;
  /** The digest of the prefix that is to be changed; the server refuses if it has another one by now. */
  readonly ifMatch?: string;
}

export class Api {
  /** In this tab's memory only. null: none is needed. */
  #key: string | null;
  /** Requests that the key was no longer good for. */
  #waiting: (() => void)[] = [];
  /** Asks for another key, which requests then wait for; null: they fail. */
  onUnauthorized: (() => void) | null = null;

  constructor(key: string | null) {
    this.#key = key;
  }

  /** Requests that waited for it are sent again: the server did nothing for them. */
  useKey(key: string): void {
    this.#key = key;
    for (const goOn of this.#waiting.splice(0)) goOn();
  }

  /** Whether requests carry a key. */
  get keyed(): boolean {
    return this.#key !== null;
  }

  get<T>(path: string, signal?: AbortSignal): Promise<T> {
    return this.#json<T>("GET", path, undefined, signal === undefined ? {} : { signal });
  }

  send<T>(
    method: "POST" | "PUT" | "PATCH" | "DELETE",
    path: string,
    body?: object,
    options: SendOptions = {},
  ): Promise<T> {
    return this.#json<T>(method, path, body, options);
  }

  /** A file's content. */
  async file(path: string): Promise<Blob> {
    return (await this.#fetch("GET", path)).blob();
  }

  /** The first line of a text, of which no more is read than needed; null if it has more than `most` characters. */
  async firstLine(path: string, most = 65_536): Promise<string | null> {
    const { body } = await this.#fetch("GET", path);
    const reader = body!.pipeThrough(new TextDecoderStream()).getReader();
    try {
      for (let text = ""; text.length < most; ) {
        const { done, value } = await reader.read();
        text += value ?? "";
        const end = done ? text.length : text.indexOf("\n");
        if (end >= 0) return text.slice(0, end);
      }
      return null;
    } finally {
      await reader.cancel().catch(() => undefined);
    }
  }

  /** Throws ApiError, also for an error that ends the stream; an AbortError if `signal` is aborted. */
  async *events(path: string, body: object | null, signal: AbortSignal): AsyncGenerator<ServerEvent> {
    const response = await this.#fetch(body === null ? "GET" : "POST", path, body ?? undefined, { signal });
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
        `${path}${path.includes("?") ? "&" : "?"}limit=1000${after === "" ? "" : `&after=${encodeURIComponent(after)}`}`,
      );
      items.push(...(page[field] as T[]));
      after = page["next"] as string | null;
    }
    return items;
  }

  /** The newest of a list under /v1, up to the first one that is known, and to `most`. */
  async newest<T extends { readonly id: string }>(path: string, known = "", most = 1000): Promise<T[]> {
    const items: T[] = [];
    for (let after = ""; ; after = `&after=${items.at(-1)!.id}`) {
      const { data, has_more } = await this.get<{ data: T[]; has_more: boolean }>(`${path}?limit=100${after}`);
      const end = data.findIndex(({ id }) => id === known);
      items.push(...(end < 0 ? data : data.slice(0, end)));
      if (end >= 0 || !has_more || data.length === 0 || items.length >= most) return items;
    }
  }

  #anotherKey(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push(resolve);
      signal?.addEventListener("abort", () => reject(signal.reason as Error));
      this.onUnauthorized?.();
    });
  }

  async #json<T>(method: string, path: string, body?: object, options?: SendOptions): Promise<T> {
    const response = await this.#fetch(method, path, body, options);
    return (response.status === 204 ? undefined : await response.json()) as T;
  }

  async #fetch(method: string, path: string, body?: object, options: SendOptions = {}): Promise<Response> {
    const { signal, ifMatch } = options;
    const key = this.#key;
    const headers: Record<string, string> = {};
    if (key !== null) headers["authorization"] = `Bearer ${key}`;
    if (ifMatch !== undefined) headers["if-match"] = `"${ifMatch}"`;
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
    if (response.status === 401 && this.onUnauthorized !== null) {
      // Another key may have come while this one was on its way.
      if (key === this.#key) await this.#anotherKey(signal);
      return this.#fetch(method, path, body, options);
    }
    const told = (await response.json().catch(() => ({}))) as Told;
    const wait = response.headers.get("retry-after");
    const request_id = response.headers.get("x-request-id") ?? "";
    throw new ApiError(response.status, { request_id, ...told }, wait === null ? null : Number(wait));
  }
}
