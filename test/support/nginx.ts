/** A real nginx with a configuration that the guides show, before servers of a test; in the foreground, ended by pid. */
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

const shown = (guide: string): string =>
  /```nginx\n([^`]*)```/.exec(readFileSync(repositoryFile(`docs/guides/${guide}`), "utf8"))![1]!;

/** Of docs/guides/deploy.md, before these two servers. */
export const balancer =
  (...serverPorts: readonly [number, number]) =>
  (port: number): string =>
    shown("deploy.md")
      .replace(/prefixd-(\d):8080/g, (_, number) => `127.0.0.1:${serverPorts[Number(number) - 1]}`)
      .replace("listen 80;", `listen 127.0.0.1:${port};`);

/** Of docs/guides/routers.md: beside a replica, with /metrics from its admin port. */
export const sidecar =
  ({ main, admin }: { readonly main: number; readonly admin: number }) =>
  (port: number): string =>
    `server { listen 127.0.0.1:${port};\n${shown("routers.md").replace("127.0.0.1:9464", `127.0.0.1:${admin}`).replace("127.0.0.1:8080", `127.0.0.1:${main}`)}}`;

/** @param configuration what stands in `http`, with the port to listen on. Resolves when nginx listens. */
export async function startNginx(
  configuration: (port: number) => string,
): Promise<{ url: string; stop(): Promise<void> }> {
  const folder = mkdtempSync(join(tmpdir(), "prefixd-nginx-"));
  const port = await freePort();
  const http = configuration(port);
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
