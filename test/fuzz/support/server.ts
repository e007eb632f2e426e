/** A whole server on the demo model in this process, so that nothing it throws goes unseen. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Test } from "tap";
import { parseConfig } from "../../../src/config.ts";
import { startServer } from "../../../src/main.ts";
import { createLogger } from "../../../src/observability/logging.ts";
import { adapterForm } from "../../support/server.ts";

export const ADMIN_KEY = "an-admin-key-that-is-long-enough-for-a-test";
/** Each request has a connection of its own that is closed with it, so that those which are counted are the tests'. */
const ALONE = { connection: "close" };
const PROMPT = "i want to book a flight to london on August 14th, 2024\n=>";

export interface FuzzServer {
  readonly port: number;
  /** Lines of the log of level error so far. */
  errors(): readonly string[];
  /** Answers the new user's key. */
  createUser(id: string): Promise<string>;
  /** Registers one of the demo's adapters. */
  put(key: string, name: string, adapter: string): Promise<void>;
  /** Ids of the tokens of one answer that is always the same. */
  ask(key: string, prefix: string): Promise<readonly number[]>;
  json(
    key: string,
    method: string,
    path: string,
    body?: unknown,
  ): Promise<{ status: number; body: Record<string, unknown> }>;
  metric(name: string): Promise<number>;
  /** Resolves when nothing runs or waits; rejects when that takes too long. */
  idle(): Promise<void>;
}

/** With the demo's prefixes, and keys unless `env` has none. Stopped, and its files removed, when the test ends. */
export async function startFuzzServer(
  t: Test,
  flags: readonly string[] = [],
  env: Record<string, string> = { PREFIXD_ADMIN_KEY: ADMIN_KEY },
): Promise<FuzzServer> {
  const folder = mkdtempSync(join(tmpdir(), "prefixd-fuzz-"));
  const config = parseConfig(
    [
      "--port",
      "0",
      "--threads",
      "1",
      "--store",
      `lmdb:${join(folder, "store")}`,
      "--cache-dir",
      join(folder, "cache"),
      "--prefixes",
      "prefixes",
      "--drain-timeout",
      "5",
      ...flags,
    ],
    env,
  );
  if (config === "help") throw new Error("no configuration");
  const errors: string[] = [];
  const running = await startServer(config, createLogger("error", { write: (line: string) => void errors.push(line) }));
  t.teardown(async () => {
    await running.stop();
    rmSync(folder, { recursive: true, force: true });
  });
  const call = (key: string, method: string, path: string, body?: unknown): Promise<Response> =>
    fetch(running.url + path, {
      method,
      headers: {
        ...ALONE,
        authorization: `Bearer ${key}`,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      body: body === undefined ? null : JSON.stringify(body),
    });
  const json: FuzzServer["json"] = async (key, method, path, body) => {
    const response = await call(key, method, path, body);
    const text = await response.text();
    return { status: response.status, body: (text === "" ? {} : JSON.parse(text)) as Record<string, unknown> };
  };
  const metric = async (name: string): Promise<number> => {
    const text = await (await call(ADMIN_KEY, "GET", "/metrics")).text();
    return Number(new RegExp(`^${name} (.+)$`, "m").exec(text)?.[1]);
  };
  const expectStatus = (wanted: number, status: number, body: unknown): void => {
    if (status !== wanted) throw new Error(`${status}, not ${wanted}: ${JSON.stringify(body)}`);
  };
  return {
    port: Number(new URL(running.url).port),
    errors: () => errors,
    json,
    async createUser(id) {
      const created = await json(ADMIN_KEY, "POST", "/admin/users", { id });
      expectStatus(201, created.status, created.body);
      return String((await json(ADMIN_KEY, "POST", `/admin/users/${id}/keys`)).body["key"]);
    },
    async put(key, name, adapter) {
      const response = await fetch(`${running.url}/prefixes/${name}`, {
        method: "PUT",
        headers: { ...ALONE, authorization: `Bearer ${key}` },
        body: adapterForm(join("prefixes", adapter)),
      });
      expectStatus(201, response.status, await response.text());
    },
    async ask(key, prefix) {
      const { status, body } = await json(key, "POST", "/generate", {
        prompt: PROMPT,
        prefix_id: prefix,
        max_new_tokens: 16,
        ignore_eos: true,
        return_token_ids: true,
      });
      expectStatus(200, status, body);
      return (body["choices"] as { token_ids: number[] }[])[0]!.token_ids;
    },
    metric,
    async idle() {
      for (let left = 2000; left > 0; left--) {
        const busy = (await metric("prefixd_running_sequences")) + (await metric("prefixd_queue_depth"));
        if (busy === 0) return;
        await sleep(5);
      }
      throw new Error("requests still run or wait");
    },
  };
}
