/**
 * llama.cpp's own benchmark as one of the engines compared. It has no prefixes: plain prompts.
 *
 *     tsx bench/peers/llama-batched-bench.ts BINARY MODEL.gguf
 *
 * Each turn is its own process, which loads the model, warms up and then counts; only what it counts is reported. The
 * prompt is shared by the rows and copied before the clock starts.
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { median } from "../support/report.ts";
import { CONTEXT, serveWithoutPrefixes, THREADS } from "./protocol.ts";

const [binary = "", model = ""] = process.argv.slice(2);

interface Line {
  /** Seconds of the prompt, and of all generated tokens. */
  readonly t_pp: number;
  readonly t_tg: number;
}

/** Its log is written by a thread that is sometimes not joined at the end, so a result can be missing: then retry. */
const ATTEMPTS = 5;

async function run(prompts: readonly number[], steps: number, rows: number): Promise<Line[]> {
  const sizes = [
    "-c",
    String(Math.max(512, rows * 256)),
    "-b",
    "2048",
    "-ub",
    "512",
    "-npp",
    prompts.join(","),
    "-ntg",
    String(steps),
    "-npl",
    String(rows),
    "-pps",
  ];
  const threads = ["-t", String(THREADS), "-tb", String(THREADS), "-fa", "on", "--output-format", "jsonl"];
  for (let attempt = 1; ; attempt++) {
    const { stdout, stderr } = await promisify(execFile)(binary, ["-m", model, ...sizes, ...threads]);
    const lines = stdout.split("\n").filter((line) => line.startsWith('{"n_kv_max"'));
    if (lines.length === prompts.length) return lines.map((line) => JSON.parse(line) as Line);
    if (attempt === ATTEMPTS)
      throw new Error(`${binary} gave ${lines.length} results, not ${prompts.length}: ${stderr.slice(-300)}`);
  }
}

async function decode(rows: number, units: number): Promise<number> {
  const [line] = await run([CONTEXT - Math.round(units / 2)], units, rows);
  return line!.t_tg;
}

async function prefill(tokens: number, units: number): Promise<number> {
  const lines = await run(
    Array.from({ length: units + 1 }, () => tokens),
    1,
    1,
  );
  return median(lines.slice(1).map(({ t_pp }) => t_pp)) * units;
}

await serveWithoutPrefixes(decode, prefill);
