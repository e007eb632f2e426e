import { isDeepStrictEqual } from "node:util";
import t, { type Test } from "tap";
import { kvElements, type KvTensor } from "../../src/kv.ts";
import type { StepOutput } from "../../src/engine/runner.ts";
import { Gpt2Runner } from "../../src/model/gpt2-runner.ts";
import { candidatesOf } from "../../src/model/gpt2-graph.ts";
import type { Device } from "../../src/runtime/device.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { effort } from "../support/effort.ts";
import { isStreamed } from "../../src/runtime/stream-device.ts";
import { SIMULATED } from "../support/devices.ts";
import { foldWith, goldenDir, isWiped, seededRandom } from "../support/model.ts";
import { openFixture, type RunnerFixture, type RunnerFixtureOptions } from "./runner-fixture.ts";

const MODEL = goldenDir("gelu-new-f32");
const HEAD_DIM = 8;
const SLOTS = 5;

async function open(t: Test, device: Device, bankBytes = 0, more: RunnerFixtureOptions = {}): Promise<RunnerFixture> {
  const fixture = await openFixture(MODEL, SLOTS, { device, bankBytes, ...more });
  t.teardown(() => fixture.close());
  return fixture;
}

function randomPrefix({ runner }: RunnerFixture, length: number, random: () => number): KvTensor {
  return { length, data: Float32Array.from({ length: kvElements(runner.shape, length) }, () => 2 * random() - 1) };
}

const copyOf = ({ candidates, ...output }: StepOutput): unknown => ({
  topLogits: output.topLogits.slice(0, output.rows * candidates),
  topIds: output.topIds.slice(0, output.rows * candidates),
  logSumExp: output.logSumExp.slice(0, output.rows),
  logits: Array.from({ length: output.rows }, (_, row) => output.logits(row).slice()),
});

const VARIANTS: readonly [string, Device, RunnerFixtureOptions][] = [
  ["handles", SIMULATED.handles, {}],
  ["handles, steps of at least 9 rows", SIMULATED.handles, { leastRows: 9 }],
  ["stream", SIMULATED.stream, {}],
];
for (const [kind, device, more] of VARIANTS) {
  t.test(`${kind}: any order of calls answers what typed arrays answer, bit by bit`, async (t) => {
    const [host, other] = [await open(t, DEVICES.cpu), await open(t, device, 0, more)];
    const random = seededRandom(11);
    const below = (limit: number): number => Math.floor(random() * limit);
    const { positions, vocabSize } = host.runner.shape;
    const prefixes = Array.from({ length: 6 }, (_, index) => randomPrefix(host, 1 + 5 * index, random));
    const lengths = new Array<number>(SLOTS).fill(0);
    const both = async (call: (fixture: RunnerFixture) => unknown): Promise<void> => {
      const answers = [await call(host), await call(other)];
      // tap's own comparison, number by number, would take longer than the calls.
      t.ok(isDeepStrictEqual(answers[1], answers[0]), "the same bits");
    };
    const step = (run: (fixture: RunnerFixture) => Promise<StepOutput>): Promise<void> =>
      both(async (fixture) => copyOf(await run(fixture)));

    for (let call = 0; call < effort({ short: 80, long: 400 }); call++) {
      const row = below(SLOTS);
      const length = lengths[row]!;
      const ids = host.ids(1 + below(12), call);
      switch (below(7)) {
        case 0: {
          const prefix = prefixes[below(prefixes.length)]!;
          await both(({ runner }) => runner.loadPrefix(row, prefix));
          lengths[row] = prefix.length;
          break;
        }
        case 1:
        case 2: {
          // From the beginning, or behind what is there.
          const start = random() < 0.3 || length + ids.length > positions ? 0 : length;
          await step(({ runner }) =>
            call % 2 === 0 ? runner.prefill(row, start, ids, "last") : runner.prefill(row, start, ids, "all"),
          );
          lengths[row] = start + ids.length;
          break;
        }
        case 3: {
          const to = below(SLOTS);
          if (length === 0 || to === row) break;
          await both(({ runner }) => runner.copyRow(row, to, length, 0));
          const start = below(length);
          if (random() < 0.5) await both(({ runner }) => runner.copyRow(row, to, length, start));
          lengths[to] = length;
          break;
        }
        case 4:
        case 5: {
          const rows = 1 + below(SLOTS);
          if (lengths.slice(0, rows).some((each) => each === 0 || each === positions)) break;
          const fed = Int32Array.from({ length: rows }, () => below(vocabSize));
          await step(({ runner }) => runner.decode(fed, Int32Array.from(lengths.slice(0, rows))));
          for (let each = 0; each < rows; each++) lengths[each]!++;
          break;
        }
        case 6:
          if (random() < 0.5) {
            const data = Float32Array.from({ length: 9 * host.runner.shape.width }, () => random() - 0.5);
            await both(({ runner }) =>
              foldWith(runner, call % 2 === 0 ? { kind: "tokens", ids } : { kind: "embeddings", length: 9, data }),
            );
          } else {
            await both(({ runner }) => runner.wipe(row, length, positions));
            await both(({ runner }) => runner.wipeBuffers());
          }
      }
      await both(async ({ runner }) => liveOf(await runner.read(row, positions), lengths[row]!, positions));
    }
    t.ok(
      lengths.some((length) => length > 20),
      "rows have grown",
    );
  });

  t.test(`${kind}: a wiped cache is zeros everywhere, hot prefixes included`, async (t) => {
    const fixture = await open(t, device, 0, more);
    const { runner } = fixture;
    const { positions } = runner.shape;
    for (let row = 0; row < SLOTS; row++) {
      runner.loadPrefix(row, randomPrefix(fixture, 7 + row, seededRandom(row)));
      await runner.prefill(row, 7 + row, fixture.ids(20, row), "last");
    }
    await foldWith(runner, { kind: "tokens", ids: fixture.ids(30, 1) });
    await runner.decode(Int32Array.of(1, 2, 3, 4, 5), Int32Array.of(27, 28, 29, 30, 31));
    t.equal(runner.bankStats()?.entries, SLOTS);
    for (let row = 0; row <= SLOTS; row++) runner.wipe(row, 0, positions);
    runner.wipeBuffers();
    for (let row = 0; row <= SLOTS; row++) t.ok(await isWiped(runner, row), `row ${row}`);
    t.equal(runner.bankStats()?.entries, 0);
  });

  t.test(
    `${kind}: a step moves ids, positions, lengths and answered rows up, and candidates down; nothing else`,
    async (t) => {
      const fixture = await open(t, device);
      const { runner, runtime } = fixture;
      for (let row = 0; row < SLOTS; row++) await runner.prefill(row, 0, fixture.ids(6, row), "last");
      const moved = async (run: () => Promise<unknown>): Promise<{ up: number; down: number }> => {
        const { up, down } = runtime.transfers;
        await run();
        return { up: runtime.transfers.up - up, down: runtime.transfers.down - down };
      };
      const perOutput = candidatesOf(runner.shape) * (4 + 4) + 4;
      const decode = (rows: number): Promise<unknown> =>
        runner.decode(new Int32Array(rows).fill(3), new Int32Array(rows).fill(6));
      for (const rows of [3, SLOTS]) {
        await decode(rows);
        // On a stream the next size of run that there is, and six inputs of less than 256 bytes each, which are aligned to them.
        const expected = !isStreamed(device)
          ? { up: rows * (4 + 4 + 4 + 4), down: rows * perOutput }
          : { up: 6 * 256, down: (rows === 3 ? 4 : rows) * perOutput };
        t.same(await moved(() => decode(rows)), expected, `${rows} rows`);
      }
      const output = await runner.decode(Int32Array.of(1, 1, 1), Int32Array.of(6, 6, 6));
      t.same(
        await moved(async () => output.logits(1)),
        { up: !isStreamed(device) ? 4 : 0, down: 4 * runner.shape.vocabSize },
        "all logits of a row only when they are asked for",
      );
    },
  );
}

t.test("the CPU moves nothing", async (t) => {
  const { runner, runtime, ids } = await open(t, DEVICES.cpu);
  await runner.prefill(0, 0, ids(6, 1), "last");
  await runner.decode(Int32Array.of(3), Int32Array.of(6));
  t.same(runtime.transfers, { up: 0, down: 0 });
  t.equal(runner.bankStats(), null);
});

t.test("the bank: a prefix goes up once, the least recently used makes way, rows get the right one", async (t) => {
  const device = SIMULATED.handles;
  const probe = await open(t, device);
  const { positions } = probe.runner.shape;
  const pageBytes = probe.runner.bankStats()!.capacityBytes / (positions + 1);
  const fixture = await open(t, device, 100 * pageBytes);
  const { runner, runtime } = fixture;
  const random = seededRandom(5);
  const [a, b, c] = [40, 35, 30].map((length) => randomPrefix(fixture, length, random)) as [
    KvTensor,
    KvTensor,
    KvTensor,
  ];
  const load = async (row: number, prefix: KvTensor): Promise<number> => {
    const before = runtime.transfers.up;
    runner.loadPrefix(row, prefix);
    const { up } = runtime.transfers;
    t.same(await runner.read(row, prefix.length), prefix);
    return up - before;
  };
  const cold = await load(0, a);
  t.ok(cold > a.data.byteLength, "brought up");
  t.ok((await load(1, a)) < a.data.byteLength, "only indices");
  await load(2, b);
  t.match(runner.bankStats(), { entries: 2, bytes: 75 * pageBytes, hits: 1, misses: 2, evictions: 0 });
  await load(3, a);
  await load(4, c);
  t.match(
    runner.bankStats(),
    { entries: 2, bytes: 70 * pageBytes, hits: 2, misses: 3, evictions: 1 },
    "b made way: a had been used since",
  );
  await load(0, b);
  t.match(runner.bankStats(), { entries: 2, misses: 4, evictions: 2 });
  const largest = randomPrefix(fixture, positions, random);
  await load(1, largest);
  t.match(runner.bankStats(), { entries: 1, bytes: positions * pageBytes });
  t.throws(() => runner.loadPrefix(0, { length: 2, data: new Float32Array(3) }), RangeError);
});

for (const [kind, device] of Object.entries({ cpu: DEVICES.cpu, ...SIMULATED })) {
  t.test(`${kind}: others get their turn while a row is read`, async (t) => {
    const { runner } = await open(t, device);
    let hadTurn = false;
    setImmediate(() => (hadTurn = true));
    await runner.read(0, runner.shape.positions);
    t.ok(hadTurn);
  });
}

t.test("a vocabulary whose ids do not fit into single precision is refused", async (t) => {
  const { checkpoint, runtime } = await open(t, DEVICES.cpu);
  const options = {
    modelPath: "not read",
    slots: 1,
    threads: 1,
    device: SIMULATED.handles,
    precision: "fp32",
    bankBytes: 0,
  } as const;
  const shape = { ...checkpoint.shape, vocabSize: 2 ** 24 + 1 };
  await t.rejects(Gpt2Runner.open(runtime, { ...options, shape }), {
    code: "model_unsupported",
    message: /takes at most 16777216 token ids; this model has 16777217/,
  });
});

t.test("chunks that are too long for the device are fed as several", async (t) => {
  const fixture = await open(t, SIMULATED.handles);
  t.equal(fixture.runner.longestChunk, Infinity, "the CPU's kernels are right");
  if (!(fixture.runner instanceof Gpt2Runner)) throw new Error("another runner");
  const whole = await foldWith(fixture.runner, { kind: "tokens", ids: fixture.ids(40, 1) });
  fixture.runner.longestChunk = 7;
  const chunks = await foldWith(fixture.runner, { kind: "tokens", ids: fixture.ids(40, 1) });
  t.ok(whole.data.every((value, index) => Math.abs(value - chunks.data[index]!) < 1e-4));
  t.ok(chunks.data.every((value) => value !== 0));
});

/** Positions `[0, length)` of a whole row. */
function liveOf({ data }: KvTensor, length: number, positions: number): Float32Array {
  return data.filter((_, index) => Math.floor(index / HEAD_DIM) % positions < length);
}
