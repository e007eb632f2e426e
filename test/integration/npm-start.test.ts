/** Starts the server as the README does, and stops it like a supervisor: by a signal to npm. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import t from "tap";
import { lacking } from "../support/requirements.ts";
import { ROOT } from "../support/program.ts";
import { temporaryFolder, withoutSettings } from "../support/server.ts";

t.test(
  "SIGTERM to npm start drains and ends the server, and leaves no process behind",
  { skip: lacking("linux"), timeout: 240_000 },
  async (t) => {
    const folder = temporaryFolder();
    const settings = {
      PREFIXD_PORT: "0",
      PREFIXD_STORE: `lmdb:${join(folder.path, "store")}`,
      PREFIXD_CACHE_DIR: join(folder.path, "cache"),
      PREFIXD_SPIN_TIME: "0",
    };
    // Its own process group, so that leftovers of a failing test can be ended.
    const npm = spawn("npm", ["start"], {
      cwd: ROOT,
      env: { ...withoutSettings(), ...settings, NODE_OPTIONS: undefined },
      stdio: ["ignore", "pipe", "ignore"],
      detached: true,
    });
    t.teardown(() => {
      try {
        process.kill(-npm.pid!, "SIGKILL");
      } catch {
        // All processes have ended.
      }
      folder.remove();
    });
    const log: Record<string, unknown>[] = [];
    const lines = createInterface({ input: npm.stdout });
    const url = await new Promise<string>((resolve, reject) => {
      lines.on("line", (line) => {
        if (!line.startsWith("{")) return;
        const entry = JSON.parse(line) as Record<string, unknown>;
        log.push(entry);
        if (entry["msg"] === "listening") resolve(String(entry["url"]));
      });
      lines.on("close", () => reject(new Error("npm start has ended")));
    });
    const stream = await fetch(`${url}/generate`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ prompt: "a", max_new_tokens: 200, ignore_eos: true, stream: true }),
    });
    const [exited, closed] = [once(npm, "exit"), once(lines, "close")];
    npm.kill("SIGTERM");
    t.match(await stream.text(), /"finish_reason":"length".*\n\ndata: \[DONE\]\n\n$/s, "what runs may end");
    if (!t.same(await exited, [0, null], "npm has waited for the server")) return;
    await closed;
    t.equal(log.at(-1)?.["msg"], "stopped");
    await t.rejects(fetch(`${url}/health/live`), "nobody listens any more");
  },
);
