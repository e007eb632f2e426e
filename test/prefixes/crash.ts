import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import type { Test } from "tap";
import { prefixDigest } from "../../src/prefixes/digest.ts";
import { listedFor } from "../../src/prefixes/sharing.ts";
import type { PrefixRecord, PrefixStore } from "../../src/prefixes/store.ts";
import { bareNode, SOURCES } from "../support/program.ts";
import { record, SHAPE } from "./records.ts";

const NAMES = 10;

/** Of a few hundred kilobytes, so that writing one takes a while; files and tensors tell the versions apart. */
export function crashVersion(name: number, version: number): Promise<PrefixRecord> {
  const shape = { ...SHAPE, layers: 12, heads: 4, headDim: 32 };
  const files = new Map([
    ["adapter_model.safetensors", Buffer.alloc(200_000 + version * 50_000, name * 2 + version)],
    [`only-${version}`, Buffer.from([version])],
  ]);
  return record({ user: "ann", name: `p${name}` }, name * 2 + version, { shape, length: 10 + version * 5, files });
}

/** Kills a process that puts prefixes, at random moments, and checks what is left each time. */
export async function crashRounds(
  t: Test,
  where: string,
  namespace: string,
  open: () => Promise<PrefixStore>,
  rounds: number,
  afterKill?: () => Promise<void>,
): Promise<void> {
  let killed = 0;
  let answered: (number | undefined)[] = Array(NAMES).fill(undefined);
  for (let round = 0; round < rounds; round++) {
    const child = spawn(
      ...bareNode(
        ...SOURCES,
        new URL("./crash-child.ts", import.meta.url).pathname,
        where,
        namespace,
        String(round % 2),
      ),
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    const ended = once(child, "close");
    const said: string[] = [];
    const lines = createInterface({ input: child.stdout });
    const ready = once(lines, "line");
    lines.on("line", (line) => said.push(line));
    await Promise.race([ready, ended]);
    // Between two PUTs or within one, the first one included; on a busy machine too, some have been answered by the end of the last round.
    const answers = round === 0 ? 0 : 1 + Math.floor(Math.random() * 8);
    while (said.length <= answers && child.exitCode === null) await sleep(1);
    await sleep(Math.random() * 30);
    child.kill("SIGKILL");
    const [, signal] = (await ended) as [number | null, string | null];
    if (signal === "SIGKILL") killed++;
    await afterKill?.();
    for (const line of said.slice(1)) {
      const [name, version] = line.split(" ").map(Number) as [number, number];
      answered[name] = version;
    }
    const store = await open();
    answered = await checkWhole(t, store, answered, round % 2);
    await store.close();
  }
  t.ok(killed > rounds / 2, `killed at work ${killed} times of ${rounds}`);
}

/**
 * Every prefix is wholly one version: the one whose PUT was answered last, or the one that may have been on its way after it.
 * Gives back what is stored.
 */
async function checkWhole(
  t: Test,
  store: PrefixStore,
  answered: readonly (number | undefined)[],
  round: number,
): Promise<(number | undefined)[]> {
  const listed = await store.list("ann", { limit: 100 });
  const held = { prefixes: listed.length, bytes: listed.reduce((sum, { bytes }) => sum + bytes, 0) };
  t.same(await store.held("ann"), held, "what is kept count of is what is there");
  const found: (number | undefined)[] = [];
  let unanswered = 0;
  for (let name = 0; name < NAMES; name++) {
    const key = { user: "ann", name: `p${name}` };
    const meta = await store.head(key);
    const inList = listed.find((each) => each.name === key.name);
    if (meta === null) {
      if (answered[name] !== undefined || inList !== undefined) t.fail(`${key.name} is lost`);
      continue;
    }
    const version = Object.hasOwn(meta.files, "only-1") ? 1 : 0;
    const expected = await crashVersion(name, version);
    const kv = await store.loadKv(key, meta.digest);
    const whole =
      JSON.stringify(meta) === JSON.stringify(expected.meta) &&
      JSON.stringify(inList) === JSON.stringify(listedFor("ann", meta)) &&
      kv !== null &&
      (await prefixDigest({ ...SHAPE, layers: 12, heads: 4, headDim: 32 }, meta.length, kv)) === meta.digest;
    if (!whole) t.fail(`${key.name} is torn`);
    for (const [file, content] of expected.files)
      if (hash(await store.loadFile(key, meta.digest, file)) !== hash(content)) t.fail(`${key.name}: ${file} is torn`);
    found[name] = version;
    if (answered[name] !== version) unanswered++;
  }
  t.ok(unanswered <= 1, `round ${round}: all answered PUTs are there, ${unanswered} more`);
  return found;
}

function hash(bytes: Uint8Array | null): string {
  return bytes === null ? "none" : createHash("sha256").update(bytes).digest("hex");
}
