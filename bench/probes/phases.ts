/**
 * Cost of each of the runner's calls on a device, one by one.
 *
 *     node --import tsx bench/probes/phases.ts DEVICE PRECISION SLOTS
 */
import type { Precision } from "../../src/model/graph-weights.ts";
import type { DeviceKind } from "../../src/runtime/device.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { openFolder, promptIds, randomPrefix, sizedCheckpoint } from "../support/gpt2.ts";
import { median } from "../support/report.ts";

const [kind, precision, slots] = process.argv.slice(2) as [DeviceKind, Precision, string];
const TIMES = 15;
const PREFIX = 60;

const opened = performance.now();
const { runner, shape } = await openFolder(await sizedCheckpoint("gpt2"), Number(slots), precision, 2, DEVICES[kind]);
console.log(`${kind} ${precision} slots ${slots}: open ${(performance.now() - opened).toFixed(0)} ms`);

const prefixes = Array.from({ length: TIMES + 1 }, (_, seed) => randomPrefix(shape, PREFIX, seed));
const ids = (length: number): Int32Array => promptIds(length, 1, shape.vocabSize);
let next = 1;
const calls: Record<string, () => unknown> = {
  "prefix, in the bank": () => runner.loadPrefix(0, prefixes[0]!),
  "prefix, brought up": () => runner.loadPrefix(0, prefixes[next++]!),
  "prompt of 8": () => runner.prefill(0, PREFIX, ids(8), "last"),
  "prompt of 64": () => runner.prefill(0, PREFIX, ids(64), "last"),
  "prefix and prompt of 8": () => (runner.loadPrefix(0, prefixes[0]!), runner.prefill(0, PREFIX, ids(8), "last")),
  "fork of 70 and prompt of 8": () => (runner.copyRow(0, 1, 70, 0), runner.prefill(0, PREFIX, ids(8), "last")),
  "wipe of 70 and prompt of 8": () => (runner.wipe(1, 0, 70), runner.prefill(0, PREFIX, ids(8), "last")),
  ...Object.fromEntries(
    [1, 8, 32, 128, 512]
      .filter((rows) => rows <= runner.slots)
      .map((rows) => [`decode of ${rows}`, () => runner.decode(ids(rows), new Int32Array(rows).fill(80))]),
  ),
};
for (const [name, call] of Object.entries(calls)) {
  const times: number[] = [];
  for (let time = 0; time < TIMES; time++) {
    const began = performance.now();
    await call();
    times.push(performance.now() - began);
  }
  console.log(
    `${name.padEnd(28)} median ${median(times).toFixed(3)} ms, first ${times[0]!.toFixed(2)}, most ${Math.max(...times).toFixed(2)}`,
  );
}
process.exit(0);
