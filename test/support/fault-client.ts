/** A client of a server whose store is failing: its responses, and waiting for recovery. */
import { setTimeout as sleep } from "node:timers/promises";
import type { TestServer } from "./server.ts";

export const ADMIN_KEY = "an-admin-key-that-is-long-enough-for-a-test";
export const PROMPT = "i want to book a flight to london on August 14th, 2024\n=>";
/** The completion with the prefix `prefixes/intent`. */
export const INTENT = " book flight";

export interface Reply {
  readonly status: number;
  /** The problem's code; "" if it is not a problem. */
  readonly code: string;
  /** Seconds; null if absent. */
  readonly retryAfter: number | null;
  readonly text: string;
  readonly body: {
    readonly key?: string;
    readonly choices?: readonly { readonly text: string }[];
    readonly checks?: Record<string, string>;
    readonly usage?: readonly { readonly requests: number; readonly completion_tokens: number }[];
  };
}

export async function call(
  server: TestServer,
  method: string,
  path: string,
  body?: unknown,
  key = ADMIN_KEY,
): Promise<Reply> {
  const headers = new Headers({ authorization: `Bearer ${key}` });
  const form = body instanceof FormData;
  if (body !== undefined && !form) headers.set("content-type", "application/json");
  const response = await fetch(server.url + path, {
    method,
    headers,
    body: form ? body : body === undefined ? null : JSON.stringify(body),
  });
  const text = await response.text();
  const parsed = (text.startsWith("{") ? JSON.parse(text) : {}) as Reply["body"] & { code?: string };
  const retryAfter = response.headers.get("retry-after");
  return {
    status: response.status,
    code: parsed.code ?? "",
    retryAfter: retryAfter === null ? null : Number(retryAfter),
    text,
    body: parsed,
  };
}

export function generate(
  server: TestServer,
  prefix: string | null,
  more: object = {},
  key = ADMIN_KEY,
): Promise<Reply> {
  return call(server, "POST", "/generate", { prompt: PROMPT, prefix_id: prefix, max_new_tokens: 20, ...more }, key);
}

/** A started stream of 400 tokens; `rest` reads it to its end. */
export async function longStream(
  server: TestServer,
  prefix: string | null,
  key = ADMIN_KEY,
): Promise<{ rest: () => Promise<string> }> {
  const response = await fetch(`${server.url}/generate`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify({ prompt: PROMPT, prefix_id: prefix, max_new_tokens: 400, ignore_eos: true, stream: true }),
  });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = (await reader.read()).value ?? "";
  return {
    async rest() {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return text;
        text += value;
      }
    },
  };
}

/** Far more than anything takes on a slow machine, and less than a test file may take. */
const EVENTUALLY_MS = 180_000;

/** Waits until `check` holds; an exception counts as no. Throws what it was waiting for, and the last exception, after three minutes. */
export async function eventually(check: () => Promise<boolean>): Promise<void> {
  let last: unknown = "without an exception";
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<"late">((resolve) => (timer = setTimeout(resolve, EVENTUALLY_MS, "late")));
  try {
    for (;;) {
      const holds = check().catch((error: unknown) => void (last = error));
      // A check may hang, too.
      const outcome = await Promise.race([holds, late]);
      if (outcome === true) return;
      if (outcome === "late") throw new Error(`never came true (${String(last)}): ${String(check)}`);
      await Promise.race([sleep(50), late]);
    }
  } finally {
    clearTimeout(timer);
  }
}
