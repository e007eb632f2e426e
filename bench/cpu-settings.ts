/**
 * Which settings of ONNX Runtime and the system make decoding on the CPU faster, on an idle machine and beside busy
 * processes?
 *
 *     npm run bench -- cpu-settings
 *
 * GPT-2 small with random weights, requests through the engine, one process per setting, taking turns work by work.
 * Each setting differs from the server's in one point. "Busy" is the same beside one busy-looping process per core.
 */
import { spawn } from "node:child_process";
import { cpus } from "node:os";
import type { SessionOptions } from "../src/runtime/session.ts";
import { SIZE_OF, type Work } from "./peers/protocol.ts";
import { sizedCheckpoint } from "./support/gpt2.ts";
import { Peer } from "./support/peer.ts";
import { machineOfInt8, median, table, writeSection } from "./support/report.ts";

interface Setting {
  readonly name: string;
  readonly session?: Partial<SessionOptions>;
  readonly environment?: Readonly<Record<string, string>>;
}

const config = (key: string, value: string): Pick<Setting, "session"> => ({ session: { config: { [key]: value } } });
const SETTINGS: readonly Setting[] = [
  { name: "the server's" },
  { name: "pages of 4 KiB", session: { hugePages: false } },
  {
    name: "attention's other path (`ORT_GQA_DISABLE_FLASH_ATTENTION=0`)",
    environment: { ORT_GQA_DISABLE_FLASH_ATTENTION: "0" },
  },
  { name: "threads never spin (`allow_spinning` 0)", ...config("session.intra_op.allow_spinning", "0") },
  { name: "threads spin for 100 µs (`spin_duration_us`)", ...config("session.intra_op.spin_duration_us", "100") },
  { name: "threads spin as long as ONNX Runtime does by itself", ...config("session.intra_op.spin_duration_us", "-1") },
  {
    name: "the second thread stays on the second core (`intra_op_thread_affinities`)",
    ...config("session.intra_op_thread_affinities", "2"),
  },
  { name: "blocks that become smaller (`dynamic_block_base` 4)", ...config("session.dynamic_block_base", "4") },
  { name: "denormal numbers are zero (`set_denormal_as_zero`)", ...config("session.set_denormal_as_zero", "1") },
];
const PRECISIONS = (process.env["PRECISIONS"] ?? "fp32,int8").split(",");
const ROUNDS = Number(process.env["ROUNDS"] ?? 5);
const WORKS: readonly Work[] = ["decode-1", "decode-8", "decode-32", "prefill-64"];
const UNITS: Partial<Record<Work, number>> = { "decode-1": 24, "decode-8": 12, "decode-32": 8, "prefill-64": 6 };
/** Indices of the settings to measure besides the server's. Default: all, and only then the page is written. */
const ONLY = new Set((process.env["ONLY"] ?? "").split(",").filter(Boolean).map(Number));

const checkpoint = await sizedCheckpoint("gpt2");
const settings = SETTINGS.filter((_, index) => ONLY.size === 0 || index === 0 || ONLY.has(index));
/** Median tokens per second by precision, state, work and setting. */
const rates = new Map<string, number>();
for (const precision of PRECISIONS) {
  const peers: Peer[] = [];
  for (const { name, session = {}, environment = {} } of settings) {
    const script = new URL("support/tuned.ts", import.meta.url).pathname;
    peers.push(
      await Peer.start(
        name,
        [process.execPath, "--import", "tsx", script, checkpoint, precision, JSON.stringify(session)],
        environment,
      ),
    );
  }
  for (const state of ["alone", "busy"]) {
    const busy =
      state === "alone" ? [] : cpus().map(() => spawn(process.execPath, ["-e", "for (;;);"], { stdio: "ignore" }));
    const seconds = new Map<string, number[]>();
    for (let round = 0; round < ROUNDS; round++) {
      for (const work of WORKS) {
        for (const peer of round % 2 === 0 ? peers : peers.toReversed()) {
          const units = UNITS[work]!;
          const key = `${work} ${peer.name}`;
          seconds.set(key, [...(seconds.get(key) ?? []), (await peer.run(work, units)) / units]);
        }
      }
      process.stderr.write(`${precision}, ${state}, round ${round + 1} of ${ROUNDS}\n`);
    }
    for (const child of busy) child.kill("SIGKILL");
    for (const [key, all] of seconds)
      rates.set(`${precision} ${state} ${key}`, SIZE_OF[key.split(" ", 1)[0] as Work] / median(all));
  }
  for (const peer of peers) await peer[Symbol.asyncDispose]();
}

const lines = [
  `GPT-2 small (124M, random weights), 2 threads, tokens/s, medians of ${ROUNDS} interleaved rounds; the others relative to the server's settings. ${await machineOfInt8()}.`,
];
for (const precision of PRECISIONS) {
  const cells = ({ name }: Setting): string[] =>
    ["alone", "busy"].flatMap((state) =>
      WORKS.map((work) => {
        const [own, rate] = [settings[0]!.name, name].map(
          (setting) => rates.get(`${precision} ${state} ${work} ${setting}`)!,
        ) as [number, number];
        return name === settings[0]!.name ? rate.toFixed(0) : (rate / own).toFixed(3);
      }),
    );
  const head = ["alone", "busy"].flatMap((state) =>
    WORKS.map(
      (work) =>
        `${state}: ${work.startsWith("decode") ? `${SIZE_OF[work]} row${SIZE_OF[work] === 1 ? "" : "s"}` : `prompt of ${SIZE_OF[work]}`}`,
    ),
  );
  lines.push(
    "",
    ...table(
      [precision, ...head],
      settings.map((setting) => [setting.name, ...cells(setting)]),
    ),
  );
}
lines.push("", "Busy figures of one setting vary by a quarter.");
if (ONLY.size === 0) writeSection("cpu-settings", lines);
console.log(lines.join("\n"));
