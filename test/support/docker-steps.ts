/**
 * `.ci/docker-steps [docker/Dockerfile]`: takes every step of a Dockerfile in a folder per stage, without a Docker
 * engine, then runs the result as its user on a read-only root and asks it for an answer. This machine's Node stands
 * for the base image's.
 */
import { execFileSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { spawnInSandbox, type Sandbox } from "./docker-sandbox.ts";
import { freePort } from "./free-port.ts";
import {
  isIgnored,
  parseCopy,
  parseExec,
  parsePairs,
  parseStages,
  splitOptions,
  type Instruction,
  type Stage,
} from "./dockerfile.ts";

const CONTEXT = new URL("../..", import.meta.url).pathname;
const IGNORED = readFileSync(join(CONTEXT, ".dockerignore"), "utf8");
const ADMIN_KEY = "docker-steps-0123456789abcdef0123456789";
/** How builds reach the package registry here. */
const NETWORK = ["NODE_EXTRA_CA_CERTS", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "npm_config_registry"];

/** A stage's folder and what its instructions say about running it. */
interface Built {
  readonly root: string;
  cwd: string;
  readonly env: Record<string, string>;
  user: number | null;
  volumes: string[];
  entrypoint: string[];
  command: string[];
  health: string[];
}

async function build(stage: Stage, work: string, earlier: ReadonlyMap<string, Built>): Promise<Built> {
  const root = join(work, stage.name || "image");
  mkdirSync(root);
  const built: Built = { root, cwd: "/", env: {}, user: null, volumes: [], entrypoint: [], command: [], health: [] };
  for (const instruction of stage.instructions) {
    const began = Date.now();
    await take(instruction, built, work, earlier);
    if (/^(RUN|COPY)$/.test(instruction.name))
      console.log(
        `${stage.name || "image"}: ${instruction.name} ${instruction.text.slice(0, 90)} (${((Date.now() - began) / 1000).toFixed(1)} s)`,
      );
  }
  return built;
}

async function take(
  instruction: Instruction,
  built: Built,
  work: string,
  earlier: ReadonlyMap<string, Built>,
): Promise<void> {
  const { name, text } = instruction;
  if (name === "WORKDIR") mkdirSync(built.root + (built.cwd = text), { recursive: true });
  else if (name === "ENV") Object.assign(built.env, Object.fromEntries(parsePairs(instruction)));
  else if (name === "USER") built.user = Number(text.split(":")[0]);
  else if (name === "VOLUME") built.volumes = parseExec(text);
  else if (name === "ENTRYPOINT") built.entrypoint = parseExec(text);
  else if (name === "CMD") built.command = parseExec(text);
  else if (name === "HEALTHCHECK") built.health = parseExec(splitOptions(text).rest.replace(/^CMD /, ""));
  else if (name === "COPY") copy(instruction, built, earlier);
  else if (name === "RUN") await run(text, built, work);
  else if (!["LABEL", "EXPOSE", "STOPSIGNAL"].includes(name))
    throw new Error(`line ${instruction.line}: ${name} is not known here`);
}

function copy(instruction: Instruction, { root, cwd }: Built, earlier: ReadonlyMap<string, Built>): void {
  const { from, sources, target } = parseCopy(instruction);
  for (const source of sources) {
    if (from === null && isIgnored(IGNORED, source))
      throw new Error(`line ${instruction.line}: .dockerignore excludes ${source}`);
    const origin = join(from === null ? CONTEXT : earlier.get(from)!.root, source);
    const place = join(root, resolve(cwd, target));
    // Copies a folder's content; a file goes into a target that ends in "/".
    cpSync(origin, target.endsWith("/") && statSync(origin).isFile() ? join(place, basename(source)) : place, {
      recursive: true,
      verbatimSymlinks: true,
    });
  }
}

async function run(text: string, built: Built, work: string): Promise<void> {
  const { options, rest } = splitOptions(text);
  const cached = /^type=cache,target=(.+)$/.exec(options.get("mount") ?? "")?.[1];
  mkdirSync(join(work, "cache"), { recursive: true });
  const network = Object.fromEntries(NETWORK.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : [])));
  const binds = cached === undefined ? [] : ([[join(work, "cache"), cached]] as const);
  const child = spawnInSandbox(
    { ...built, env: { HOME: "/root", ...network, ...built.env }, writable: null, binds },
    ["sh", "-c", rest],
    ["ignore", "ignore", "inherit"],
  );
  const [code] = (await once(child, "close")) as [number | null];
  if (code !== 0) throw new Error(`RUN ${rest}: exit code ${code}`);
}

/** Starts the image as `docker run --read-only` does, runs its health check, requests an answer, and stops it. */
async function tryOut(image: Built): Promise<void> {
  const port = await freePort();
  const env = { HOME: "/nonexistent", ...image.env, PREFIXD_ADMIN_KEY: ADMIN_KEY, PREFIXD_PORT: String(port) };
  const sandbox: Sandbox = { ...image, env, writable: image.volumes };
  const refused = await outcome(
    spawnInSandbox(
      { ...sandbox, env: { ...env, PREFIXD_ADMIN_KEY: "" } },
      [...image.entrypoint, ...image.command],
      ["ignore", "pipe", "pipe"],
    ),
  );
  expect(
    "without an admin key it does not start",
    refused.code === 2 && refused.text.includes("--admin-key-file"),
    refused,
  );
  const written = await outcome(
    spawnInSandbox(sandbox, ["sh", "-c", "id -u; touch /app/x /x && echo written"], ["ignore", "pipe", "pipe"]),
  );
  expect(
    "not root, and the root file system is read-only",
    written.text.startsWith(`${image.user}\n`) && image.user !== 0 && written.code !== 0,
    written,
  );

  const server = spawnInSandbox(sandbox, [...image.entrypoint, ...image.command], ["ignore", "pipe", "pipe"]);
  const ended = outcome(server);
  try {
    const healthy = async (): Promise<boolean> =>
      (await outcome(spawnInSandbox(sandbox, image.health, ["ignore", "pipe", "pipe"]))).code === 0;
    for (let tries = 0; !(await healthy()); tries++) {
      if (tries > 60 || server.exitCode !== null) throw new Error("it does not become healthy");
      await sleep(500);
    }
    console.log("ok: healthy");
    const [showcase] = JSON.parse(readFileSync(join(CONTEXT, "prefixes/showcase.json"), "utf8")) as [
      { prompt: string; answers: Record<string, string> },
    ];
    const response = await fetch(`http://127.0.0.1:${port}/generate`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${ADMIN_KEY}` },
      body: JSON.stringify({ prompt: showcase.prompt, prefix_id: "datenorm", max_new_tokens: 40 }),
    });
    const answer = (await response.json()) as { choices?: { text: string }[] };
    expect("it generates with a prefix", answer.choices?.[0]?.text.trim() === showcase.answers["datenorm"], answer);
    // The server is unshare's only child, process 1 of its namespace.
    process.kill(Number(readFileSync(`/proc/${server.pid}/task/${server.pid}/children`, "utf8")), "SIGTERM");
    const { code, text } = await ended;
    expect("SIGTERM ends it in order", code === 0, text);
  } finally {
    server.kill("SIGKILL");
    const { code, text } = await ended;
    if (code !== 0) console.log(text);
  }
}

function expect(what: string, holds: boolean, seen: unknown): void {
  if (!holds) throw new Error(`${what}: ${JSON.stringify(seen)}`);
  console.log(`ok: ${what}`);
}

async function outcome(child: ChildProcess): Promise<{ code: number | null; text: string }> {
  let text = "";
  for (const stream of [child.stdout!, child.stderr!])
    stream.setEncoding("utf8").on("data", (part: string) => (text += part));
  const [code] = (await once(child, "close")) as [number | null];
  return { code, text };
}

const file = process.argv[2] ?? "docker/Dockerfile";
const stages = parseStages(readFileSync(join(CONTEXT, file), "utf8"));
const tag = /^node:(\d+\.\d+)\./.exec(stages.at(-1)!.base)?.[1];
if (tag === undefined || !process.version.startsWith(`v${tag}.`))
  console.log(`note: this is Node ${process.version}, the base is ${stages.at(-1)!.base}`);
const work = mkdtempSync(join(tmpdir(), "prefixd-docker-steps-"));
try {
  const done = new Map<string, Built>();
  for (const stage of stages) done.set(stage.name, await build(stage, work, done));
  const image = done.get("")!;
  console.log(
    `${readdirSync(`${image.root}/app`).join(" ")}: ${execFileSync("du", ["-sm", `${image.root}/app`], { encoding: "utf8" }).split("\t")[0]} MB`,
  );
  await tryOut(image);
} finally {
  rmSync(work, { recursive: true, force: true });
}
