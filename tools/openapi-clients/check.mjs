/**
 * openapi.yaml passes Redocly's recommended rules and Spectral's for OpenAPI, and three generators make clients of it
 * that compile under `strict` and do their main jobs against a running server. Needs `npm ci` here, and `npm run build`
 * in the project.
 */
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = join(HERE, "../..");
const KEY = "openapi-clients-0123456789abcdef0123456789";
const SPEC = "../../openapi.yaml";
const MADE = "build/generated";

/** Runs a program of this package; its output is shown only if it fails. */
function run(program, args, env = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(HERE, "node_modules", program), ...args], {
      cwd: HERE,
      env: { ...process.env, ...env },
    });
    const output = [];
    child.stdout.on("data", (bytes) => output.push(bytes));
    child.stderr.on("data", (bytes) => output.push(bytes));
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) return resolve();
      reject(new Error(`${program} ${args.join(" ")}\n${Buffer.concat(output).toString()}`));
    });
  });
}

/** Waits for all, and throws what those that failed have said. */
async function all(runs) {
  const failed = (await Promise.allSettled(runs)).filter(({ status }) => status === "rejected");
  if (failed.length > 0) throw new Error(failed.map(({ reason }) => reason.message).join("\n\n"));
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A server with keys, on the demo model. */
async function startServer(folder) {
  const port = await freePort();
  const args = ["--port", String(port), "--store", `lmdb:${join(folder, "store")}`, "--log-level", "error"];
  const server = spawn(process.execPath, [join(ROOT, "dist/cli/main.js"), "serve", ...args], {
    env: { ...process.env, PREFIXD_ADMIN_KEY: KEY },
    stdio: ["ignore", "ignore", "inherit"],
  });
  const ended = new Promise((resolve) => server.once("exit", resolve));
  const url = `http://127.0.0.1:${port}`;
  const stop = async () => {
    server.kill();
    await ended;
  };
  for (;;) {
    if (server.exitCode !== null) throw new Error("the server did not start");
    const ready = await fetch(`${url}/health/ready`).catch(() => null);
    if (ready?.ok) return { url, stop };
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

rmSync(join(HERE, "build"), { recursive: true, force: true });
mkdirSync(join(HERE, MADE), { recursive: true });
const folder = mkdtempSync(join(tmpdir(), "prefixd-openapi-"));
const starting = startServer(folder);
try {
  await all([
    run("@redocly/cli/bin/cli.js", ["lint", SPEC], {
      REDOCLY_TELEMETRY: "off",
      REDOCLY_SUPPRESS_UPDATE_NOTICE: "true",
    }),
    run("@stoplight/spectral-cli/dist/index.js", ["lint", SPEC, "--fail-severity", "warn"]),
    run("openapi-typescript/bin/cli.js", [SPEC, "--output", `${MADE}/openapi-typescript.ts`]),
    run("@hey-api/openapi-ts/bin/run.js", ["--input", SPEC, "--output", `${MADE}/hey-api`, "--no-log-file"]),
    run("openapi-zod-client/bin.js", [SPEC, "--output", `${MADE}/zod-client.ts`, "--with-alias", "--export-schemas"]),
  ]);
  await run("typescript/bin/tsc", ["-p", "."]);
  const { url } = await starting;
  const env = { PREFIXD_URL: url, PREFIXD_KEY: KEY, ADAPTER: join(ROOT, "prefixes/intent") };
  for (const client of ["openapi-fetch", "hey-api", "zod-client"])
    await run(`../build/js/clients/${client}.js`, [], env);
  console.log("openapi.yaml: lints, and its three generated clients work");
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await starting.then(({ stop }) => stop()).catch(() => undefined);
  rmSync(folder, { recursive: true, force: true });
}
