/**
 * The runner with settings other than the server's, as one of the engines of bench/peers/protocol.ts.
 *
 *     tsx bench/support/tuned.ts CHECKPOINT fp32|int8 SETTINGS
 *
 * SETTINGS is JSON such as '{"hugePages": false, "config": {"session.intra_op.allow_spinning": "0"}}'.
 */
import type { Precision } from "../../src/model/graph-weights.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { Runtime, type Session, type SessionOptions } from "../../src/runtime/session.ts";
import { CONTEXT, serveWork, THREADS } from "../peers/protocol.ts";
import { EngineWorks } from "./engine-works.ts";
import { openFolder } from "./gpt2.ts";

class TunedRuntime extends Runtime {
  override session(model: string | Uint8Array, options: SessionOptions): Session {
    return super.session(model, { ...options, ...settings, config: { ...options.config, ...settings.config } });
  }
}

const [folder = "", precision = "fp32", json = "{}"] = process.argv.slice(2);
const settings = JSON.parse(json) as Partial<SessionOptions>;
const { runner } = await openFolder(folder, 32, precision as Precision, THREADS, DEVICES.cpu, new TunedRuntime());
const works = new EngineWorks(runner);
const decode =
  (rows: number) =>
  async (units: number): Promise<number> =>
    units * (await works.decode({ rows, different: false, context: CONTEXT, steps: units }));

await serveWork({
  "decode-1": decode(1),
  "decode-8": decode(8),
  "decode-32": decode(32),
  "prefill-64": async (units) => units * (await works.prefill(64, units)),
});
process.exit(0);
