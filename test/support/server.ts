/** The real server in its own process, as an operator starts, kills and restarts it. Ended by pid. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { bareNode, programArguments, ROOT } from "./program.ts";

/** The fields tests read of a response to `/generate`, or of a problem. */
export interface Answer {
  readonly choices: {
    readonly index: number;
    readonly text: string;
    readonly token_ids: number[];
    readonly logprobs?: { readonly token_logprobs: (number | null)[] };
    readonly score?: number;
    readonly finish_reason: string;
  }[];
  readonly prefix: { readonly id: string; readonly digest: string } | null;
  readonly usage: {
    readonly prefix_tokens: number;
    readonly prompt_tokens: number;
    readonly completion_tokens: number;
  };
  readonly code?: string;
}

export interface TestServer {
  readonly url: string;
  readonly pid: number;
  /** Log lines so far, parsed. */
  readonly log: Record<string, unknown>[];
  signal(signal: NodeJS.Signals): void;
  /** Resolves with the exit code, or the signal's name. */
  readonly exited: Promise<number | string>;
  json(path: string, body: unknown, init?: RequestInit): Promise<{ status: number; body: Answer }>;
  metric(name: string): Promise<number>;
}

/** A folder for stores and graphs, removed with `remove`. */
export function temporaryFolder(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), "prefixd-server-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** User and limits of a process; default: the tests' own. */
export interface RunAs {
  readonly uid?: number;
  readonly gid?: number;
  /** The limit of `ulimit -n`. */
  readonly openFiles?: number;
}

/** Runs `prefixd`; returns the process and its output. */
export function runCli(
  args: readonly string[],
  env: Record<string, string> = {},
  { openFiles, ...runAs }: RunAs = {},
): { child: ChildProcess; exited: Promise<number | string>; stderr: () => string; stdout: () => string } {
  const [unset, node] = bareNode(...programArguments(), ...args);
  const [program, ...operands] =
    openFiles === undefined
      ? [unset, ...node]
      : ["sh", "-c", `ulimit -n ${openFiles} && exec "$@"`, "sh", unset, ...node];
  const child = spawn(program, operands, {
    cwd: ROOT,
    env: { ...withoutSettings(), ...env },
    ...runAs,
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [out, err] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (err += text));
  const exited = once(child, "close").then(([code, signal]) => (code ?? signal) as number | string);
  return { child, exited, stderr: () => err, stdout: () => out };
}

/**
 * Starts `prefixd serve` on a free port, or that of `--port`, and waits until it listens. Rejects with its output if it
 * ends before.
 */
export async function startServerProcess(
  args: readonly string[],
  env: Record<string, string> = {},
  runAs: RunAs = {},
): Promise<TestServer> {
  // Other tests need the same cores.
  const settings = { PREFIXD_SPIN_TIME: "0", PREFIXD_HTTP_WORKERS: process.env["TEST_HTTP_WORKERS"] ?? "0", ...env };
  const { child, exited, stderr } = runCli(
    ["serve", ...(args.includes("--port") ? [] : ["--port", "0"]), ...args],
    settings,
    runAs,
  );
  const log: Record<string, unknown>[] = [];
  const url = await new Promise<string>((resolve, reject) => {
    createInterface({ input: child.stdout! }).on("line", (line) => {
      const entry = JSON.parse(line) as Record<string, unknown>;
      log.push(entry);
      if (entry["msg"] === "listening") resolve(String(entry["url"]));
    });
    void exited.then((code) => reject(new Error(`the server ended with ${code}: ${stderr()}`)));
  });
  return {
    url,
    pid: child.pid!,
    log,
    exited,
    signal: (signal) => void child.kill(signal),
    async json(path, body, init = {}) {
      const response = await fetch(url + path, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
        ...init,
      });
      return { status: response.status, body: (await response.json()) as Answer };
    },
    async metric(name) {
      const text = await (await fetch(`${url}/metrics`)).text();
      return Number(new RegExp(`^${name.replace(/[{}"]/g, "\\$&")} (.+)$`, "m").exec(text)?.[1]);
    },
  };
}

/** A folder's two PEFT files as a form. */
export function adapterForm(dir: string): FormData {
  const form = new FormData();
  for (const file of ["adapter_config.json", "adapter_model.safetensors"])
    form.append(file, new Blob([readFileSync(join(dir, file))]), file);
  return form;
}

/** The environment without the developer's prefixd settings. */
export function withoutSettings(): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith("PREFIXD_") && name !== "npm_lifecycle_event"),
  );
}
