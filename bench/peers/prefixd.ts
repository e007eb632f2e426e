/**
 * prefixd's engine as one of the engines compared.
 *
 *     tsx bench/peers/prefixd.ts CHECKPOINT fp32|int8
 */
import type { Precision } from "../../src/model/graph-weights.ts";
import { EngineWorks } from "../support/engine-works.ts";
import { openFolder } from "../support/gpt2.ts";
import { CONTEXT, serveWork, THREADS } from "./protocol.ts";

const SLOTS = 32;
const [folder = "", precision = "fp32"] = process.argv.slice(2);
const { runner } = await openFolder(folder, SLOTS, precision as Precision, THREADS);
const works = new EngineWorks(runner);
const decode =
  (rows: number, different: boolean) =>
  async (units: number): Promise<number> =>
    units * (await works.decode({ rows, different, context: CONTEXT, steps: units }));
const prefill =
  (tokens: number) =>
  async (units: number): Promise<number> =>
    units * (await works.prefill(tokens, units));

await serveWork({
  "decode-1": decode(1, false),
  "decode-8": decode(8, false),
  "decode-32": decode(32, false),
  "decode-32-different": decode(32, true),
  "prefill-64": prefill(64),
  "prefill-256": prefill(256),
});
process.exit(0);
