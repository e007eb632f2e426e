/** Greedy generation equals PEFT's `generate()` token for token, on the CPU and where graphs move rows and prefixes. */
import t from "tap";
import { goldenModels } from "../support/model.ts";
import { checkParity } from "../support/parity.ts";
import { SIMULATED } from "../support/devices.ts";

for (const name of goldenModels()) {
  t.test(name, (t) => checkParity(t, name));
  for (const [kind, device] of Object.entries(SIMULATED))
    t.test(`${name}, ${kind}`, (t) => checkParity(t, name, { device }));
}
