import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { TrainingError } from "../../src/errors.ts";
import type { TrainSequence } from "../../src/model/train-batch.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { epochBatches, holdOut, partsWithin } from "../../src/training/data/batches.ts";
import { LineDefect, parseExampleLine } from "../../src/training/data/example-line.ts";
import { MAX_LINE_BYTES, readExamples, type ExampleOptions, type Examples } from "../../src/training/data/examples.ts";
import { linesOf } from "../../src/training/data/lines.ts";

const dir = mkdtempSync(join(tmpdir(), "prefixd-train-data-"));
t.teardown(() => rmSync(dir, { recursive: true }));
const tokenizer = await loadTokenizer("models/demo", 4096);
const EOS = tokenizer.eosId!;
const line = (prompt: string, completion: string): string => JSON.stringify({ prompt, completion });

async function read(
  content: string | Uint8Array,
  options: Partial<ExampleOptions> = {},
): Promise<{ examples: Examples; bad: string[] }> {
  const path = join(dir, "data.jsonl");
  writeFileSync(path, content);
  const bad: string[] = [];
  const onBadLine = (number: number, reason: string): void => void bad.push(`${number}: ${reason}`);
  const usual = { tokenizer, eosId: EOS, maxTokens: 64, tooLong: "refuse", badLines: 1, onBadLine } as const;
  return { examples: await readExamples(path, { ...usual, ...options }), bad };
}

async function failure(content: string | Uint8Array, options: Partial<ExampleOptions> = {}): Promise<string> {
  return read(content, options).then(
    () => "no error",
    (error: unknown) => (error instanceof TrainingError ? error.message : `no TrainingError: ${String(error)}`),
  );
}

t.test("lines are cut at line feeds, wherever chunks end", async (t) => {
  const text = "ab\r\n\nlonger than five\nc\rd\nno end";
  for (const size of [1, 2, 3, 7, 100]) {
    async function* chunks(): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < text.length; at += size) yield Buffer.from(text.slice(at, at + size));
    }
    const lines: (string | null)[] = [];
    for await (const { number, bytes } of linesOf(chunks(), 6)) {
      t.equal(number, lines.length + 1);
      lines.push(bytes && Buffer.from(bytes).toString());
    }
    t.same(lines, ["ab", "", null, "c\rd", "no end"], `chunks of ${size}`);
  }
});

t.test("a line of a gigabyte takes no memory", async (t) => {
  const chunk = new Uint8Array(1 << 20).fill(0x61);
  let most = 0;
  async function* chunks(): AsyncGenerator<Uint8Array> {
    for (let i = 0; i < 1024; i++) {
      if (i % 64 === 0) most = Math.max(most, process.memoryUsage().arrayBuffers);
      yield chunk;
    }
    yield Buffer.from("\nshort\n");
  }
  const before = process.memoryUsage().arrayBuffers;
  const lines: (number | null)[] = [];
  for await (const { bytes } of linesOf(chunks(), MAX_LINE_BYTES)) lines.push(bytes && bytes.length);
  t.same(lines, [null, 5]);
  t.ok(most - before < 64 << 20, `${(most - before) >> 20} MiB`);
});

t.test("what is wrong with a line is said", async (t) => {
  const defect = (content: string | Uint8Array): string => {
    try {
      parseExampleLine(Buffer.from(content));
      return "none";
    } catch (error) {
      return error instanceof LineDefect ? error.message : String(error);
    }
  };
  t.match(defect('{"messages": [{"role": "user", "content": "hi"}]}'), /chat line.*{"prompt": "...", "completion"/);
  t.match(defect('{"prompt": "a"}'), /it has no "completion"/);
  t.match(defect('{"prompt": 1, "completion": "b"}'), /its "prompt" is not a string/);
  t.match(defect('{"prompt": "", "completion": "b"}'), /its "prompt" is empty/);
  t.match(defect('{"prompt": "a", "completion": ""}'), /its "completion" is empty/);
  t.match(defect('{"prompt": "\\ud800", "completion": "b"}'), /half of a surrogate pair/);
  t.match(defect('{"prompt": "a", "prompt": "b", "completion": "b"}'), /occurs twice/);
  t.match(defect('["prompt"]'), /not a JSON object/);
  t.match(defect('{"prompt": "a", '), /expected|too early/);
  t.match(defect("prompt,completion"), /JSON/);
  t.match(defect(`{"x": ${"[".repeat(100_000)}`), /nested deeper/);
  t.match(defect(Buffer.from('{"prompt": "\0"}', "utf16le")), /NUL/);
  t.match(defect(Buffer.from([0x7b, 0xff, 0x7d])), /UTF-8/);
  t.same(parseExampleLine(Buffer.from('\ufeff{"completion": "b", "id": 7, "prompt": "a"}')), {
    prompt: "a",
    completion: "b",
  });
  t.equal(parseExampleLine(Buffer.from("  ")), null);
});

t.test("examples are prompt, completion and the end of text", async (t) => {
  const { examples, bad } = await read(`${line("Hello\n=>", " world")}\n\n${line("a b", " c")}`);
  t.same(bad, []);
  t.equal(examples.count, 2);
  const prompt = tokenizer.encode("Hello\n=>");
  const { ids, firstTarget, endTarget } = examples.sequence(0);
  t.same([...ids], [...prompt, ...tokenizer.encode(" world"), EOS]);
  t.same([firstTarget, endTarget], [prompt.length, ids.length]);
  t.equal(examples.tokens(0), ids.length);
  const again = await read(`${line("Hello\n=>", " world")}\n${line("a b", " c")}\n`);
  t.equal(again.examples.digest(), examples.digest());
  t.not((await read(line("a b", " c"))).examples.digest(), examples.digest());
});

t.test("bad lines are named, and too many of them end it", async (t) => {
  const content = [line("a", "b"), "{", line("c", ""), line("d", "e"), ""].join("\n");
  const { examples, bad } = await read(content, { badLines: 0.5 });
  t.equal(examples.count, 2);
  t.equal(bad.length, 2);
  t.match(bad[0], /^2: /);
  t.match(bad[1], /^3: its "completion" is empty/);
  t.match(await failure(content, { badLines: 0.4 }), /2 of 4 lines are bad, more than 40 %.*The first is line 2: /);
  t.match(await failure(""), /has no examples/);
  t.match(await failure("\n\n"), /has no examples/);
  const many = "{\n".repeat(100_000);
  let named = 0;
  t.match(await failure(many, { badLines: 0.01, onBadLine: () => named++ }), /1000 of 1000 lines are bad/);
  t.equal(named, 1000, "the rest is not read");
  await t.rejects(
    readExamples(join(dir, "nowhere"), { tokenizer, eosId: EOS, maxTokens: 9, tooLong: "cut", badLines: 0 }),
    {
      code: "ENOENT",
    },
  );
});

t.test("too long lines are bad, or lose the start of the prompt", async (t) => {
  const long = "one two three four five six seven eight nine ten ".repeat(10);
  const { examples, bad } = await read(`${line(long, " yes")}\n${line("short", " yes")}`);
  t.equal(examples.count, 1);
  t.match(bad, [/^1: it has more tokens than the 64 that fit/]);
  const cut = await read(line(long, " yes"), { tooLong: "cut" });
  const { ids, firstTarget } = cut.examples.sequence(0);
  const completion = [...tokenizer.encode(" yes"), EOS];
  t.equal(ids.length, 64);
  t.same([...ids.subarray(firstTarget)], completion, "the completion stays");
  t.same([...ids.subarray(0, firstTarget)], [...tokenizer.encode(long)].slice(-(64 - completion.length)));
  t.match((await read(`${line("x", long)}\n${line("x", "y")}`, { tooLong: "cut" })).bad, [/^1: it has more tokens/]);
});

t.test("batches: each example once an epoch, similar lengths together, and the same again", async (t) => {
  const lengths = Array.from({ length: 203 }, (_, i) => 5 + ((i * 37) % 50));
  const examples = { tokens: (index: number) => lengths[index]! };
  const { held, rest } = holdOut(203, 10, 1);
  t.equal(held.length, 10);
  t.same(
    [...held, ...rest].sort((a, b) => a - b),
    [...lengths.keys()],
  );
  const batches = epochBatches(examples, rest, 8, 1, 0);
  t.same(
    batches.flatMap((batch) => [...batch]).sort((a, b) => a - b),
    [...rest],
  );
  t.equal(batches.length, Math.ceil(rest.length / 8));
  const spread = batches.map(
    (batch) => Math.max(...batch.map((i) => lengths[i]!)) - Math.min(...batch.map((i) => lengths[i]!)),
  );
  t.ok(spread.reduce((a, b) => a + b, 0) / spread.length < 10, "of 50");
  t.same(epochBatches(examples, rest, 8, 1, 0), batches);
  t.notSame(epochBatches(examples, rest, 8, 1, 1), batches);
  t.notSame(epochBatches(examples, rest, 8, 2, 0), batches);
});

t.test("parts stay within the memory; a sequence with too many targets is learned in several", async (t) => {
  const sequence = (prompt: number, targets: number): TrainSequence => ({
    ids: new Int32Array(prompt + targets),
    firstTarget: prompt,
    endTarget: prompt + targets,
  });
  const need = (rows: number, fed: number, targets: number): number => rows * fed + 10 * targets;
  const all = [sequence(3, 1), sequence(3, 2), sequence(4, 20), sequence(5, 1), sequence(90, 2), sequence(500, 3)];
  const parts = partsWithin(all, need, 150);
  const covered = new Map<Int32Array, number>();
  for (const part of parts) {
    const fed = Math.max(...part.map(({ endTarget }) => endTarget - 1));
    const targets = part.reduce((sum, { firstTarget, endTarget }) => sum + endTarget - firstTarget, 0);
    const isAlone = part.length === 1 && need(1, fed, 1) > 150;
    t.ok(isAlone || need(part.length, fed, targets) <= 150, `${part.length} rows, ${fed} tokens, ${targets} targets`);
    for (const { ids, firstTarget, endTarget } of part) {
      t.equal(firstTarget, covered.get(ids) ?? all.find((one) => one.ids === ids)!.firstTarget, "without a gap");
      covered.set(ids, endTarget);
    }
  }
  for (const { ids, endTarget } of all) t.equal(covered.get(ids), endTarget);
  t.ok(parts.length > 3);
});
