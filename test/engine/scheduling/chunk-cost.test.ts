/** What a chunk takes, learned on machines whose time is computed. */
import t from "tap";
import { ChunkCost } from "../../../src/engine/scheduling/chunk-cost.ts";
import { seededRandom } from "../../support/model.ts";

/** GPT-2 small on two cores: milliseconds to read the layers and the head, of a token, and of a token for each position before it. */
const CPU = { fixed: 14.5, head: 5.4, token: 0.58, position: 0.00016 };
/** Within 40 chunks what a chunk takes is known to this part of it, whatever the machine. */
const [LEARNED, WITHIN] = [40, 0.2];
const TIMES = [0.1, 1, 10];

for (const disturbed of [0, 0.1]) {
  t.test(`learns ratios ten times larger and smaller, with ${100 * disturbed} % of the runs disturbed`, async (t) => {
    for (const fixed of TIMES) {
      for (const head of TIMES) {
        for (const position of TIMES) {
          const machine = {
            fixed: CPU.fixed * fixed,
            head: CPU.head * head,
            token: CPU.token,
            position: CPU.position * position,
          };
          const random = seededRandom(3);
          const cost = new ChunkCost();
          let [chunks, worst] = [0, 0];
          for (let prompts = 0; prompts < 12; prompts++) {
            const promptLength = 100 + Math.floor(random() * 800);
            const prompt = { prefixLength: 0, promptLength, answers: "last" as const };
            for (let from = 0, to = 0; from < promptLength; from = to, chunks++) {
              to = Math.min(promptLength, from + 16 + 8 * Math.floor(random() * 7));
              const real =
                machine.fixed +
                (to === promptLength ? machine.head : 0) +
                (to - from) * (machine.token + (machine.position * (from + to)) / 2);
              if (chunks >= LEARNED) worst = Math.max(worst, Math.abs(cost.of(prompt, from, to) / real - 1));
              const noise = (random() < disturbed ? 4 : 1) * (0.95 + 0.1 * random());
              cost.add(prompt, from, to, real * noise, true);
            }
          }
          t.ok(chunks > 2 * LEARNED);
          t.ok(worst < WITHIN, `x${fixed}, head x${head}, positions x${position}: off by ${worst.toFixed(2)}`);
        }
      }
    }
  });
}

t.test("a single disturbed run changes nothing", async (t) => {
  const cost = new ChunkCost();
  const prompt = { prefixLength: 0, promptLength: 1000, answers: "last" as const };
  for (let run = 0; run < 9; run++) cost.add(prompt, 0, 64, 60, true);
  const before = [cost.of(prompt, 256, 320), cost.of(prompt, 256, 272), cost.fixed];
  cost.add(prompt, 256, 320, 600, true);
  t.same([cost.of(prompt, 256, 320), cost.of(prompt, 256, 272), cost.fixed], before);
});

t.test("shared runs tell the cost of a prompt, not that of reading the weights", async (t) => {
  const cost = new ChunkCost();
  const prompt = { prefixLength: 0, promptLength: 16, answers: "last" as const };
  for (let run = 0; run < 20; run++) cost.add(prompt, 0, 16, 0.1 + (run % 3) / 100, false);
  t.equal(cost.fixed, new ChunkCost().fixed);
  t.ok(Math.abs(cost.of(prompt, 0, 16) - 0.11) < 0.011);
});
