/**
 * What the tests cost: with PREFIXD_TEST_COSTS=FILE, each process that tap starts adds a line to the file, the seconds that it took of the
 * processors, with all that it started and waited for; files that share a process add one each, indented. For `node --import`, as `npm
 * test` does; Linux only (/proc).
 */
import { appendFileSync, readFileSync } from "node:fs";
import { relative } from "node:path";
import { isMainThread } from "node:worker_threads";

const TICKS_PER_SECOND = 100;

const file = isMainThread ? process.env.PREFIXD_TEST_COSTS : undefined;
if (file !== undefined) {
  // Processes that this one starts are part of its own figure.
  delete process.env.PREFIXD_TEST_COSTS;
  process.once("exit", () => addCost(relative(process.cwd(), process.argv[1]), spent()));
}

/** Seconds of processors until now: user and system, with those of ended children (utime, stime, cutime, cstime of proc(5)). */
export function spent() {
  if (file === undefined) return 0;
  const stat = readFileSync("/proc/self/stat", "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) / TICKS_PER_SECOND;
}

export function addCost(name, seconds) {
  if (file !== undefined) appendFileSync(file, `${seconds.toFixed(2)}\t${name}\n`);
}
