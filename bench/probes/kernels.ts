/**
 * Lists the kernels of a step or a prompt on CUDA, with the time of each.
 *
 *     gcc -O2 -shared -fPIC -o trace.so bench/probes/trace.c -I.../cuda_cupti/include .../libcupti.so.13
 *     CUDA_INJECTION64_PATH=trace.so TRACE_OUT=trace.txt node --import tsx bench/probes/kernels.ts run PRECISION SLOTS
 *     node --import tsx bench/probes/kernels.ts summary trace.txt
 *
 * The summary splits any program's trace where nothing happened for a tenth of a second.
 */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Precision } from "../../src/model/graph-weights.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { openFolder, promptIds, sizedCheckpoint } from "../support/gpt2.ts";

const TIMES = 20;
const PAUSE_MS = 300;
const GAP_NS = 100e6;

const [mode, ...operands] = process.argv.slice(2);
if (mode === "run") await run(operands[0] as Precision, Number(operands[1]));
else summarise(operands[0]!, Number(operands[1] ?? TIMES));

async function run(precision: Precision, slots: number): Promise<void> {
  const { runner, shape } = await openFolder(await sizedCheckpoint("gpt2"), slots, precision, 2, DEVICES.cuda);
  const ids = (length: number): Int32Array => promptIds(length, 1, shape.vocabSize);
  const works: Record<string, () => Promise<unknown>> = {};
  for (const rows of [1, 8, 32, 128, 512].filter((rows) => rows <= slots))
    works[`decode of ${rows}`] = () => runner.decode(ids(rows), new Int32Array(rows).fill(80));
  works["decode of 32 at 900"] = () => runner.decode(ids(32), new Int32Array(32).fill(900));
  if (slots >= 512) works["decode of 512 at 900"] = () => runner.decode(ids(512), new Int32Array(512).fill(900));
  works["prompt of 64"] = () => runner.prefill(0, 60, ids(64), "last");
  for (const [name, work] of Object.entries(works)) {
    await sleep(PAUSE_MS);
    const began = performance.now();
    for (let time = 0; time < TIMES; time++) await work();
    console.log(`${name}: ${((performance.now() - began) / TIMES).toFixed(3)} ms`);
  }
  await runner.close();
}

function summarise(path: string, times: number): void {
  const records = readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => {
      const [start, end, grid, ...name] = line.split(" ");
      return { start: Number(start), end: Number(end), grid, name: name.join(" ") };
    });
  records.sort((a, b) => a.start - b.start);
  const groups: (typeof records)[] = [];
  let last = -Infinity;
  for (const record of records) {
    if (record.start - last > GAP_NS) groups.push([]);
    groups.at(-1)!.push(record);
    last = Math.max(last, record.end);
  }
  for (const [index, group] of groups.entries()) {
    const span = Math.max(...group.map(({ end }) => end)) - group[0]!.start;
    const sums = new Map<string, { count: number; time: number; grid: string }>();
    for (const { start, end, name, grid } of group) {
      const sum = sums.get(name) ?? { count: 0, time: 0, grid: grid! };
      sum.count++;
      sum.time += end - start;
      sums.set(name, sum);
    }
    const busy = [...sums.values()].reduce((sum, { time }) => sum + time, 0);
    console.log(
      `\ngroup ${index}: ${group.length} records, by ${times}: span ${(span / times / 1e3).toFixed(1)} us, busy ${(busy / times / 1e3).toFixed(1)} us`,
    );
    const sorted = [...sums].sort((a, b) => b[1].time - a[1].time).slice(0, 40);
    for (const [name, { count, time, grid }] of sorted)
      console.log(
        `${(time / times / 1e3).toFixed(2).padStart(9)} us ${(count / times).toFixed(1).padStart(6)} x ${(time / count / 1e3).toFixed(2).padStart(7)} [${grid}] ${name.slice(0, 160)}`,
      );
  }
}
