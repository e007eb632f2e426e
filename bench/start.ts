/**
 * How long until a server answers, with and without a built graph? And how long and how much memory does building a
 * graph take?
 *
 *     npm run bench -- start
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sizedCheckpoint } from "./support/gpt2.ts";
import { machine, median, table, writeSection } from "./support/report.ts";
import { build, CLI, listening } from "./support/server-process.ts";

const ROUNDS = Number(process.env["ROUNDS"] ?? 5);
/** Seconds. */
const READY_ASKED = 2;
const BUILD_ASKED = 15;
const folder = mkdtempSync(join(tmpdir(), "prefixd-start-"));
build();

const cold: number[] = [];
const warm: number[] = [];
for (let round = 0; round < ROUNDS; round++) {
  const cache = join(folder, `cache-${round}`);
  cold.push(await untilListening(cache, round));
  warm.push(await untilListening(cache, round));
}
const demo = ["demo model", `${(median(cold) / 1000).toFixed(2)} s`, `${(median(warm) / 1000).toFixed(2)} s`, ""];

const built: (string | number)[][] = [];
const seconds = new Map<string, number>();
for (const [size, precision] of [
  ["gpt2", "fp32"],
  ["gpt2", "int8"],
  ["gpt2-medium", "fp32"],
] as const) {
  const model = await sizedCheckpoint(size);
  const times: number[] = [];
  let peak = 0;
  for (let round = 0; round < Math.min(3, ROUNDS); round++) {
    const cache = join(folder, `build-${size}-${precision}-${round}`);
    const started = performance.now();
    // The child reports its own peak memory, as counted by the system.
    const script = `process.argv = ["node", "prefixd", "build", "--model", ${JSON.stringify(model)}, "--cache-dir", ${JSON.stringify(cache)}, "--precision", "${precision}"]; await import(${JSON.stringify(CLI)}); process.stderr.write(String(process.resourceUsage().maxRSS))`;
    const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" });
    if (status !== 0) throw new Error(stderr);
    times.push(performance.now() - started);
    peak = Math.max(peak, Number(stderr));
    rmSync(cache, { recursive: true });
  }
  seconds.set(`${size} ${precision}`, median(times) / 1000);
  built.push([size, precision, `${(median(times) / 1000).toFixed(1)} s`, `${(peak / 1024).toFixed(0)} MiB`]);
}
rmSync(folder, { recursive: true });

const verdict = (measured: number, asked: number): string => (measured < asked ? "met" : "not met");
writeSection("start", [
  `Medians of ${ROUNDS} starts, from the command to the first answer that can be given. ${machine()}.`,
  "",
  `Goal: the demo ready in less than ${READY_ASKED} s with its graph built: ${verdict(median(warm) / 1000, READY_ASKED)}. GPT-2 small's graph built in less than ${BUILD_ASKED} s: fp32 ${verdict(seconds.get("gpt2 fp32")!, BUILD_ASKED)}, int8 ${verdict(seconds.get("gpt2 int8")!, BUILD_ASKED)}.`,
  "",
  ...table(["", "graph to be built", "graph built", ""], [demo]),
  "",
  "Building a graph ahead (`prefixd build`, fingerprint included), and the peak memory of the process, which does not grow with the model:",
  "",
  ...table(["model", "precision", "time", "peak RSS"], built),
]);
console.log(demo.join("  "), built.map((row) => row.join("  ")).join("\n"));

async function untilListening(cache: string, round: number): Promise<number> {
  const started = performance.now();
  const child = spawn(
    process.execPath,
    [CLI, "serve", "--port", "0", "--cache-dir", cache, "--store", `lmdb:${join(folder, `store-${round}`)}`],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const exited = once(child, "exit");
  await listening(child.stdout, exited);
  const elapsed = performance.now() - started;
  child.kill("SIGTERM");
  await exited;
  return elapsed;
}
