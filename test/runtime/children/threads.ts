/** Says how many threads the library starts for itself, apart from those of sessions. */
import { readdirSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Runtime } from "../../../src/runtime/session.ts";

const threads = (): number => readdirSync("/proc/self/task").length;
const before = threads();
const runtime = new Runtime();
await sleep(300);
process.stdout.write(String(threads() - before), () => {
  runtime[Symbol.dispose]();
  process.exit(0);
});
