/** A real nginx with the configuration that docs/guides/deploy.md shows, before one server of ours; in the foreground, ended by pid. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { repositoryFile } from "./docs-block.ts";
import { freePort } from "./free-port.ts";
import { SYSTEM_PATH } from "./requirements.ts";

/** Resolves when it listens. */
export async function startNginx(serverPort: number): Promise<{ url: string; stop(): Promise<void> }> {
  const folder = mkdtempSync(join(tmpdir(), "prefixd-nginx-"));
  const port = await freePort();
  const shown = /```nginx\n([^`]*)```/.exec(readFileSync(repositoryFile("docs/guides/deploy.md"), "utf8"))![1]!;
  // Both servers of the example are this one; the address and the port are a test's own.
  const http = shown
    .replace(/server prefixd-\d:8080;/g, `server 127.0.0.1:${serverPort};`)
    .replace("listen 80;", `listen 127.0.0.1:${port};`);
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((name) => `${name}_temp_path ${folder};`)
    .join(" ");
  writeFileSync(
    join(folder, "nginx.conf"),
    `daemon off; pid ${folder}/pid; error_log stderr; events {}\nhttp { access_log off; ${temporary}\n${http} }`,
  );
  const child = spawn("nginx", ["-p", folder, "-e", "stderr", "-c", join(folder, "nginx.conf")], {
    env: { ...process.env, PATH: SYSTEM_PATH },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (said += text));
  const exited = once(child, "exit");
  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    await exited;
    rmSync(folder, { recursive: true, force: true });
  };
  for (let attempt = 0; child.exitCode === null && attempt < 200; attempt++) {
    if (await listens(port)) return { url: `http://127.0.0.1:${port}`, stop };
    await sleep(50);
  }
  await stop();
  throw new Error(`nginx did not start: ${said}`);
}

const listens = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => resolve(true));
    socket.on("connect", () => socket.destroy()).on("error", () => resolve(false));
  });
