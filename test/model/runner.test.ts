import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { randomCheckpoint } from "../../bench/support/random-checkpoint.ts";
import { kvElements, type KvTensor } from "../../src/kv.ts";
import { candidatesOf } from "../../src/model/gpt2-graph.ts";
import { foldWith, goldenDir, goldenModels, seededRandom } from "../support/model.ts";
import { differingBits, distance, openFixture, rowOf, type Row } from "./runner-fixture.ts";

t.setTimeout(120_000);

/** The same sums in another order: what fp32 allows for logits that reach 12. */
const TOLERANCE = 3e-5;
const GARBAGE = 0x5eed;

const sameFloats = (a: Float32Array, b: Float32Array): boolean =>
  a.length === b.length && a.every((value, i) => value === b[i]);

for (const model of goldenModels()) {
  t.test(model, async (t) => {
    const fixture = await openFixture(goldenDir(model), 8);
    t.teardown(() => fixture.close());
    const { runner, ids, checkpoint } = fixture;
    const { positions, vocabSize } = runner.shape;
    const length = Math.floor(positions / 2);
    const prompt = ids(length, 1);

    const prefill = async (row: number, start: number, tokens: Int32Array): Promise<Row> =>
      rowOf(await runner.prefill(row, start, tokens, "last"));
    /** Decodes the top token of `first` and so on in row 0 alone. */
    const continueRow0 = async (first: Row, at: number, steps: number): Promise<Row[]> => {
      const rows = [first];
      for (let i = 0; i < steps; i++)
        rows.push(rowOf(await runner.decode(Int32Array.of(rows.at(-1)!.topIds[0]!), Int32Array.of(at + i))));
      return rows;
    };
    const whole = await continueRow0(await prefill(0, 0, prompt), length, 6);

    t.test("candidates are the largest logits, by id where equal; log_sum_exp is of all logits", async (t) => {
      for (const { topIds, topLogits, logSumExp, logits } of whole) {
        const order = [...logits.keys()]
          .sort((a, b) => logits[b]! - logits[a]! || a - b)
          .slice(0, candidatesOf(runner.shape));
        t.same(topIds, order);
        t.same(
          topLogits,
          order.map((id) => logits[id]),
        );
        const max = logits[order[0]!]!;
        // The sum itself, in doubles.
        const exact = max + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - max), 0));
        t.ok(Math.abs(logSumExp - exact) < TOLERANCE, `${logSumExp} is ${exact}`);
      }
      t.equal(whole[0]!.logits.length, vocabSize);
    });

    t.test("a prompt fed in chunks, cut anywhere, gives the same tokens and the same numbers", async (t) => {
      const random = seededRandom(2);
      for (let round = 0; round < 8; round++) {
        let output: Row | undefined;
        const cuts: number[] = [];
        for (let from = 0; from < length; ) {
          const to = Math.min(
            length,
            from + 1 + (round === 0 ? 0 : Math.floor(random() * (round === 1 ? 2 : length / 2))),
          );
          output = await prefill(0, from, prompt.subarray(from, to));
          cuts.push((from = to));
        }
        const rows = await continueRow0(output!, length, 6);
        rows.forEach((row, i) => {
          t.equal(row.topIds[0], whole[i]!.topIds[0], `cut at ${String(cuts)}`);
          t.ok(distance(row, whole[i]!) < TOLERANCE, `${distance(row, whole[i]!)}`);
        });
      }
    });

    t.test("a chunk fed without answers leaves the same in its row, and computes no output", async (t) => {
      const [cut, next] = [length >> 1, Int32Array.of(3)];
      await prefill(1, 0, prompt.subarray(0, cut));
      const { topLogits } = await runner.prefill(1, cut, prompt.subarray(cut), "last");
      const wanted = rowOf(await runner.decode(Int32Array.of(3, 3), Int32Array.of(0, length)), 1);
      await runner.prefill(2, 0, prompt.subarray(0, cut), "none");
      topLogits.fill(-1);
      await runner.prefill(2, cut, prompt.subarray(cut), "none");
      t.ok(
        topLogits.every((logit) => logit === -1),
        "no logits",
      );
      t.equal(differingBits(await prefill(2, length, next), wanted), 0);
    });

    t.test("a scored prompt answers for each of its tokens; the last one bit for bit as prefill does", async (t) => {
      for (const [start, end] of [
        [0, length],
        [0, 1],
        [0, 7],
        [5, length],
        [length - 1, length],
      ] as const) {
        for (const row of [1, 2]) if (start > 0) await prefill(row, 0, prompt.subarray(0, start));
        const chunk = prompt.subarray(start, end);
        const output = await runner.prefill(1, start, chunk, "all");
        t.equal(output.rows, chunk.length);
        const scored = Array.from(chunk, (_, index) => rowOf(output, index));
        t.equal(differingBits(scored.at(-1)!, await prefill(2, start, chunk)), 0, `${start} to ${end}`);
        for (const [index, row] of scored.entries()) {
          const alone = await prefill(2, 0, prompt.subarray(0, start + index + 1));
          t.ok(distance(row, alone) < TOLERANCE, `token ${start + index}: ${distance(row, alone)}`);
        }
        const next = Int32Array.of(3);
        await prefill(2, start, chunk);
        t.equal(differingBits(await prefill(1, end, next), await prefill(2, end, next)), 0, "the row holds the same");
      }
    });

    t.test("a decoded token is as good as a fed one", async (t) => {
      for (const [i, row] of whole.slice(1).entries()) {
        const fed = Int32Array.from([...prompt, ...whole.slice(0, i + 1).map(({ topIds }) => topIds[0]!)]);
        const again = await prefill(3, 0, fed);
        t.ok(distance(again, row) < TOLERANCE, `${distance(again, row)}`);
      }
    });

    t.test("a copied row continues bit for bit, wherever it lies and whatever lay there", async (t) => {
      for (const [from, to] of [
        [0, 7],
        [7, 1],
        [2, 3],
      ] as const) {
        await prefill(from, 0, prompt);
        await prefill(to, 0, ids(positions - 2, GARBAGE));
        const bystander = to === 3 ? 4 : 3;
        await prefill(bystander, 0, ids(9, 3));
        runner.copyRow(from, to, length, 0);
        const next = Int32Array.of(5);
        t.equal(differingBits(await prefill(to, length, next), await prefill(from, length, next)), 0);
        const undisturbed = await prefill(bystander, 9, next);
        await prefill(bystander, 0, ids(9, 3));
        t.equal(differingBits(undisturbed, await prefill(bystander, 9, next)), 0, "rows beside it are not touched");
      }
      const half = length >> 1;
      await prefill(0, 0, prompt);
      runner.copyRow(0, 5, half, 0);
      const rest = prompt.subarray(half);
      const copied = await prefill(5, half, rest);
      await prefill(6, 0, prompt.subarray(0, half));
      t.ok(distance(copied, await prefill(6, half, rest)) < TOLERANCE, "part of a row is a shorter prompt");
    });

    t.test("a loaded fold of tokens equals feeding the tokens", async (t) => {
      for (const split of [1, 3, length >> 1, length - 1]) {
        const kv = await foldWith(runner, { kind: "tokens", ids: prompt.subarray(0, split) });
        t.equal(kv.length, split);
        t.equal(kv.data.length, kvElements(runner.shape, split));
        await prefill(4, 0, ids(positions - 1, GARBAGE));
        runner.loadPrefix(4, kv);
        const loaded = await prefill(4, split, prompt.subarray(split));
        await prefill(2, 0, prompt.subarray(0, split));
        const fed = await prefill(2, split, prompt.subarray(split));
        t.equal(differingBits(loaded, fed), 0, "the same shapes: the same bits");
        t.ok(distance(loaded, whole[0]!) < TOLERANCE);

        const again = await foldWith(runner, { kind: "tokens", ids: prompt.subarray(0, split) });
        t.ok(sameFloats(again.data, kv.data), "folding again gives the same");
        t.not(again.data.buffer, kv.data.buffer);
      }
    });

    t.test("folding embeddings that are rows of wte is folding those tokens", async (t) => {
      const { width } = runner.shape;
      const wte = new Float32Array(vocabSize * width);
      let at = 0;
      for await (const chunk of checkpoint.tensor("wte.weight").chunks(1 << 16)) {
        wte.set(chunk, at);
        at += chunk.length;
      }
      for (const count of [1, 7, length]) {
        const tokens = prompt.subarray(0, count);
        const data = new Float32Array(count * width);
        tokens.forEach((id, i) => data.set(wte.subarray(id * width, (id + 1) * width), i * width));
        const [soft, hard] = [
          await foldWith(runner, { kind: "embeddings", length: count, data }),
          await foldWith(runner, { kind: "tokens", ids: tokens }),
        ];
        t.equal(soft.length, count);
        t.ok(sameFloats(soft.data, hard.data));
        const other = data.map((value) => value + 0.125);
        t.notOk(
          sameFloats((await foldWith(runner, { kind: "embeddings", length: count, data: other })).data, hard.data),
          "they are looked at",
        );
      }
      await t.rejects(foldWith(runner, { kind: "embeddings", length: 2, data: new Float32Array(width) }), RangeError);
    });

    t.test("folding leaves the rows in use alone", async (t) => {
      for (let row = 0; row < runner.slots; row++) await prefill(row, 0, ids(5 + row, row));
      const kv = await foldWith(runner, { kind: "tokens", ids: ids(positions, 9) });
      t.equal(kv.length, positions, "a prompt as long as the context can be folded");
      for (let row = 0; row < runner.slots; row++) {
        const after = await prefill(row, 5 + row, Int32Array.of(1));
        await prefill(row, 0, ids(5 + row, row));
        t.equal(differingBits(after, await prefill(row, 5 + row, Int32Array.of(1))), 0, `row ${row}`);
      }
    });

    t.test("a prefix that does not fit the cache is refused before anything is written", async (t) => {
      await prefill(0, 0, prompt);
      const before = await prefill(0, length, Int32Array.of(1));
      const zeros = (count: number): Float32Array => new Float32Array(count);
      const wrong: KvTensor[] = [
        { length: positions + 1, data: zeros(kvElements(runner.shape, positions + 1)) },
        { length: 4, data: zeros(kvElements(runner.shape, 3)) },
        { length: 3, data: zeros(kvElements(runner.shape, 4)) },
      ];
      for (const prefix of wrong) t.throws(() => runner.loadPrefix(0, prefix), RangeError);
      t.equal(differingBits(await prefill(0, length, Int32Array.of(1)), before), 0);
    });

    t.test(
      "positions outside the context and ids outside the vocabulary fail, without a trace in other rows",
      async (t) => {
        await prefill(1, 0, prompt);
        const before = await prefill(1, length, Int32Array.of(1));
        const failed = { name: "PrefixdError", code: "model_failed" };
        await t.rejects(runner.prefill(0, 0, ids(positions + 1, 4), "last"), failed);
        await t.rejects(runner.prefill(0, positions, Int32Array.of(1), "last"), failed);
        await t.rejects(runner.prefill(0, 0, Int32Array.of(vocabSize), "last"), failed);
        await t.rejects(runner.decode(Int32Array.of(1, 1), Int32Array.of(positions, 3)), failed);
        await t.rejects(foldWith(runner, { kind: "tokens", ids: ids(positions + 1, 4) }), failed);
        t.equal(differingBits(await prefill(1, length, Int32Array.of(1)), before), 0);
        const full = await prefill(0, 0, ids(positions, 4));
        t.ok(Number.isFinite(full.logSumExp), "the last position can be used");
      },
    );
  });
}

t.test("tokens with equal logits come in the order of their ids, in every row of a batch", async (t) => {
  const config = {
    model_type: "gpt2",
    vocab_size: 3001,
    n_positions: 16,
    n_layer: 1,
    n_head: 2,
    n_embd: 16,
    bos_token_id: 0,
    eos_token_id: 0,
  };
  const dir = await randomCheckpoint(t.testdir(), config, 3);
  // 25 embeddings, each 120 times over: the candidates end in the midst of equal ones.
  const path = join(dir, "model.safetensors");
  const file = await readFile(path);
  const begin = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("latin1", 8, begin)) as Record<string, { data_offsets: [number, number] }>;
  const [from, to] = header["wte.weight"]!.data_offsets;
  const row = 16 * 4;
  for (let at = from + 25 * row; at < to; at += row)
    file.copy(
      file,
      begin + at,
      begin + from + ((at - from) % (25 * row)),
      begin + from + ((at - from) % (25 * row)) + row,
    );
  await writeFile(path, file);

  const fixture = await openFixture(dir, 3);
  t.teardown(() => fixture.close());
  const { runner } = fixture;
  for (let r = 0; r < 3; r++) await runner.prefill(r, 0, Int32Array.of(r, 7), "last");
  const output = await runner.decode(Int32Array.of(1, 2, 3), Int32Array.of(2, 2, 2));
  for (let r = 0; r < 3; r++) {
    const { topIds, topLogits, logits } = rowOf(output, r);
    t.same(
      topIds,
      [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b).slice(0, candidatesOf(runner.shape)),
    );
    t.ok(new Set(topLogits).size < 10, "there were ties");
  }
});

t.test("ONNX Runtime still has the two ways of attention that ort-api.ts chooses from, and they agree", async (t) => {
  const chosen = process.env["ORT_GQA_DISABLE_FLASH_ATTENTION"];
  t.equal(chosen, "1");
  t.teardown(() => void (process.env["ORT_GQA_DISABLE_FLASH_ATTENTION"] = chosen));
  const answers: Row[] = [];
  for (const disabled of ["0", "1"]) {
    process.env["ORT_GQA_DISABLE_FLASH_ATTENTION"] = disabled;
    const fixture = await openFixture(goldenDir("gelu-bf16-sharded"), 1);
    await fixture.runner.prefill(0, 0, fixture.ids(20, 1), "last");
    answers.push(rowOf(await fixture.runner.decode(Int32Array.of(7), Int32Array.of(20))));
    await fixture.close();
  }
  const [one, other] = answers as [Row, Row];
  t.not(differingBits(one, other), 0, "the setting has lost its effect: see what is faster now");
  t.ok(distance(one, other) < TOLERANCE);
});
