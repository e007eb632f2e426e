/** Starts the server in its own process, for benchmarks. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";

const ROOT = new URL("../..", import.meta.url).pathname;

/** What `npm start` runs. */
export const CLI = `${ROOT}dist/cli/main.js`;

/** Compiles the sources, so that the current ones are measured. */
export function build(): void {
  if (spawnSync("npm", ["run", "--silent", "build"], { cwd: ROOT, stdio: "inherit" }).status !== 0)
    throw new Error("npm run build failed");
}

/** The URL that a server process logs; keeps reading the log. Rejects if the process ends before that. */
export function listening(log: Readable, exited: Promise<unknown>): Promise<string> {
  return new Promise((resolve, reject) => {
    createInterface({ input: log }).on("line", (line) => {
      const entry = JSON.parse(line) as { msg: string; url: string };
      if (entry.msg === "listening") resolve(entry.url);
    });
    void exited.then((ended) => reject(new Error(`the server ended: ${String(ended)}`)));
  });
}

/** Creates a user on a server and returns a key of theirs. */
export async function newUser(url: string, adminKey: string, user: { id: string; limits?: object }): Promise<string> {
  const headers = { authorization: `Bearer ${adminKey}`, "content-type": "application/json" };
  await fetch(`${url}/admin/users`, { method: "POST", headers, body: JSON.stringify(user) });
  const response = await fetch(`${url}/admin/users/${user.id}/keys`, { method: "POST", headers, body: "{}" });
  if (!response.ok) throw new Error(await response.text());
  return ((await response.json()) as { key: string }).key;
}

/** A process's resident memory in bytes. Linux only. */
export function residentBytes(pid: number): number {
  return 1024 * Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
}
