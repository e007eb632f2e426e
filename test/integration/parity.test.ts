/** Greedy generation equals PEFT's `generate()` token for token, on the CPU and where graphs move rows and prefixes. */
import t from "tap";
import { effort } from "../support/effort.ts";
import { goldenModels } from "../support/model.ts";
import { checkParity } from "../support/parity.ts";
import { SIMULATED } from "../support/devices.ts";

/** Models differ in their weights and files, of which a device sees nothing. */
const onDevices = goldenModels().slice(0, effort({ short: 1, long: Infinity }));

for (const name of goldenModels()) {
  t.test(name, (t) => checkParity(t, name));
  if (!onDevices.includes(name)) continue;
  for (const [kind, device] of Object.entries(SIMULATED))
    t.test(`${name}, ${kind}`, (t) => checkParity(t, name, { device }));
}
