/** Rows of a batch do not touch each other's numbers, not in the last bit: compared with ===, no tolerance. */
import t from "tap";
import { randomCheckpoint } from "../../bench/support/random-checkpoint.ts";
import type { KvTensor } from "../../src/kv.ts";
import { DEVICE_PRECISIONS } from "../../src/config-schema.ts";
import { effort } from "../support/effort.ts";
import { foldWith, goldenDir, goldenModels, seededRandom } from "../support/model.ts";
import { differingBits, openFixture, rowOf, type Row, type RunnerFixture } from "./runner-fixture.ts";

t.setTimeout(240_000);

const SLOTS = 32;
const STEPS = 4;
const SIZES = effort({
  short: [1, 2, 5, 17, 32],
  long: [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32],
});

interface Job {
  readonly prefix: KvTensor | null;
  readonly prompt: Int32Array;
  /** What it gives alone: the prompt's row, then one per step. */
  readonly alone: Row[];
}

/** Jobs with prefixes and prompts of all lengths, each run alone in row 0. */
async function makeJobs({ runner, ids }: RunnerFixture, count: number): Promise<Job[]> {
  const random = seededRandom(7);
  const room = runner.shape.positions - STEPS;
  const jobs: Job[] = [];
  for (let i = 0; i < count; i++) {
    const prefixLength = i % 3 === 0 ? 0 : 1 + Math.floor(random() * (room / 2));
    const prompt = ids(1 + Math.floor(random() * (room - prefixLength)), i);
    const prefix =
      prefixLength === 0 ? null : await foldWith(runner, { kind: "tokens", ids: ids(prefixLength, 1000 + i) });
    const job: Job = { prefix, prompt, alone: [] };
    job.alone.push(await admit(runner, 0, job));
    for (let step = 0; step < STEPS; step++) {
      const { topIds } = job.alone.at(-1)!;
      job.alone.push(
        rowOf(await runner.decode(Int32Array.of(topIds[0]!), Int32Array.of(prefixLength + prompt.length + step))),
      );
    }
    jobs.push(job);
  }
  return jobs;
}

async function admit(runner: RunnerFixture["runner"], row: number, { prefix, prompt }: Job): Promise<Row> {
  if (prefix !== null) runner.loadPrefix(row, prefix);
  return rowOf(await runner.prefill(row, prefix?.length ?? 0, prompt, "last"));
}

/** Runs a random mix of jobs in one batch and counts the numbers that differ from those that they give alone. */
async function mixed(
  { runner }: RunnerFixture,
  jobs: readonly Job[],
  size: number,
  random: () => number,
): Promise<number> {
  const batch = Array.from({ length: size }, () => jobs[Math.floor(random() * jobs.length)]!);
  let differing = 0;
  for (const [row, job] of batch.entries()) differing += differingBits(await admit(runner, row, job), job.alone[0]!);
  for (let step = 0; step < STEPS; step++) {
    const tokens = Int32Array.from(batch, ({ alone }) => alone[step]!.topIds[0]!);
    const at = Int32Array.from(batch, ({ prefix, prompt }) => (prefix?.length ?? 0) + prompt.length + step);
    const output = await runner.decode(tokens, at);
    batch.forEach(({ alone }, row) => (differing += differingBits(rowOf(output, row), alone[step + 1]!)));
  }
  return differing;
}

const largeVocabulary = await randomCheckpoint(
  t.testdir(),
  {
    model_type: "gpt2",
    activation_function: "gelu_new",
    vocab_size: 50257,
    n_positions: 128,
    n_layer: 2,
    n_head: 4,
    n_embd: 256,
    bos_token_id: 50256,
    eos_token_id: 50256,
  },
  5,
);

for (const precision of DEVICE_PRECISIONS.cpu) {
  for (const model of goldenModels()) {
    t.test(`${precision}, ${model}: batch sizes, random mixes`, async (t) => {
      const fixture = await openFixture(goldenDir(model), SLOTS, { precision });
      t.teardown(() => fixture.close());
      const jobs = await makeJobs(fixture, effort({ short: 10, long: 24 }));
      const random = seededRandom(11);
      const differing: Record<number, number> = {};
      for (const size of SIZES) {
        const count = await mixed(fixture, jobs, size, random);
        if (count > 0) differing[size] = count;
      }
      t.same(differing, {});
    });
  }

  t.test(
    `${precision}: GPT-2's own vocabulary and a wider model, whose operators are split over threads in other ways`,
    async (t) => {
      for (const threads of [1, 3]) {
        const fixture = await openFixture(largeVocabulary, SLOTS, { threads, precision });
        const jobs = await makeJobs(fixture, 8);
        const random = seededRandom(13);
        const differing: Record<number, number> = {};
        for (const size of effort({ short: [1, 17, 32], long: [1, 2, 3, 5, 8, 12, 16, 17, 31, 32] })) {
          const count = await mixed(fixture, jobs, size, random);
          if (count > 0) differing[size] = count;
        }
        t.same(differing, {}, `${threads} threads`);
        const scored: Record<number, number> = {};
        for (const length of effort({ short: [1, 5, 33, 127], long: [1, 2, 3, 5, 8, 16, 31, 33, 64, 100, 127] })) {
          const prompt = fixture.ids(length, length);
          const output = await fixture.runner.prefill(0, 0, prompt, "all");
          const count = differingBits(
            rowOf(output, length - 1),
            rowOf(await fixture.runner.prefill(1, 0, prompt, "last")),
          );
          if (count > 0) scored[length] = count;
        }
        t.same(scored, {}, `a scored prompt's last row is what prefill answers, ${threads} threads`);
        await fixture.close();
      }
    },
  );
}
