/** The search for trigger tokens, on the demo model. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { TrainModel } from "../../src/model/train-model.ts";
import { Runtime } from "../../src/runtime/session.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { Job, type TrainRequest } from "../../src/training/job.ts";
import { mean } from "../../src/training/learner.ts";
import { runTraining } from "../../src/training/run.ts";
import { restoreState, saveState } from "../../src/training/state.ts";
import { TriggerSearch } from "../../src/training/triggers/search.ts";
import { shownTriggers, TriggerVocabulary } from "../../src/training/triggers/vocabulary.ts";
import { trainRequests } from "../support/train-request.ts";

const dir = mkdtempSync(join(tmpdir(), "prefixd-triggers-"));
t.teardown(() => rmSync(dir, { recursive: true }));
const data = join(dir, "data.jsonl");
const DAYS = ["Monday", "Tuesday", "Friday", "Sunday"];
writeFileSync(
  data,
  Array.from({ length: 60 }, (_, i) =>
    JSON.stringify({ prompt: `It was finished on ${DAYS[i % 4]}.\n=>`, completion: ` ${DAYS[i % 4]}` }),
  ).join("\n"),
);
const runtime = new Runtime();
const checkpoint = await openCheckpoint("models/demo");
const tokenizer = await loadTokenizer("models/demo", checkpoint.shape.vocabSize);
const vocabulary = new TriggerVocabulary(tokenizer, checkpoint.config.eosIds, false);
t.teardown(async () => {
  runtime[Symbol.dispose]();
  await checkpoint.close();
});
const never = new AbortController().signal;

const request = trainRequests(
  { dir, data },
  {
    kind: "triggers",
    virtualTokens: 3,
    candidates: 6,
    steps: 6,
    warmup: null,
    evaluateEvery: 2,
  },
);

t.test("the order of candidates is that of finite differences, and every one fits", async (t) => {
  const options = { kind: "prompt", virtualTokens: 3, hidden: null, threads: 1, graphs: join(dir, "graphs") } as const;
  using model = await TrainModel.open(runtime, checkpoint, options);
  const { step, config } = model;
  const search = new TriggerSearch(model, vocabulary, 8);
  const now = vocabulary.initial("red blue green", 3);
  await search.begin(now);
  search.present();
  const [prompt, completion] = [tokenizer.encode("on Friday.\n=>"), tokenizer.encode(" Friday")];
  const batch = [
    [
      {
        ids: Int32Array.of(...prompt, ...completion),
        firstTarget: prompt.length,
        endTarget: prompt.length + completion.length,
      },
    ],
  ];
  const before = step.values.slice();
  await step.run(batch);
  const position = 1;
  const own = position * config.width;
  const products = await model.products(step.gradient.subarray(own, own + config.width));
  const candidates = [...(await search.candidates(position))];
  t.equal(candidates.length, 8);
  const rows = await model.embeddings(Int32Array.from(candidates));
  const lossTowards = async (index: number, distance: number): Promise<number> => {
    step.values.set(before);
    for (let i = 0; i < config.width; i++)
      step.values[own + i]! += distance * (rows[index * config.width + i]! - before[own + i]!);
    return mean((await step.evaluate(batch)).nll);
  };
  for (const [index, id] of candidates.entries()) {
    const predicted = products[id]! - products[now[position]!]!;
    const h = 0.02;
    const measured = ((await lossTowards(index, h)) - (await lossTowards(index, -h))) / (2 * h);
    t.ok(Math.abs(measured - predicted) < 0.02 * Math.abs(predicted) + 2e-3, `${id}: ${measured} and ${predicted}`);
    t.ok(vocabulary.fits(now.with(position, id)), tokenizer.tokenText(id));
  }
  const all = [...vocabulary.ids].filter((id) => id !== now[position] && vocabulary.fits(now.with(position, id)));
  all.sort((a, b) => products[a]! - products[b]!);
  t.same(candidates, all.slice(0, 8), "the first of all that fit");
});

t.test("triggers are text that can be typed; --any-token takes all that is text", async (t) => {
  const ids = new Set(vocabulary.ids);
  t.notOk(ids.has(tokenizer.eosId!));
  t.notOk(ids.has(tokenizer.encode("\n")[0]!), "no line ends");
  for (const id of ids) {
    const text = tokenizer.decode([id]);
    if (text.includes("\uFFFD") || [...tokenizer.encode(text)].join() !== String(id)) t.fail(`${id}: ${text}`);
  }
  const any = new TriggerVocabulary(tokenizer, checkpoint.config.eosIds, true);
  t.ok(any.ids.length > ids.size, `${any.ids.length} and ${ids.size}`);
  t.notOk(any.ids.includes(tokenizer.eosId!));
  const [th, e] = [tokenizer.encode("th"), tokenizer.encode("e")];
  const split = [...th, ...e];
  t.not([...tokenizer.encode("the")].join(), split.join());
  t.notOk(vocabulary.fits(split), "whose text is read as another token");
  t.ok(any.fits(split));
  t.match(shownTriggers(any.shown(split)), /^triggers: \(their text is read as other tokens\), token ids \d+ \d+/);
  t.same(vocabulary.initial(null, 2), [...tokenizer.encode(" the the")]);
  t.same(vocabulary.initial("dates", 40).length, 40);
  t.throws(() => vocabulary.initial("a\nb", 3), { code: "options_invalid", message: /the token "\\n", which cannot/ });
  t.throws(() => vocabulary.initial("<|endoftext|>", 1), { message: /cannot be a trigger/ });
});

t.test("the search lowers the loss, keeps the best, and resumes to the same", async (t) => {
  const losses: number[] = [];
  await using job = await Job.open(runtime, request(), true);
  const before = await job.training.evaluate();
  t.same(before.triggers, vocabulary.initial(null, 3));
  job.training.progress = { step: 0, tokens: 0, evaluations: [], best: null };
  const kept: (readonly number[])[] = [];
  await runTraining(job.training, {
    signal: never,
    save: async () => {},
    onEvaluation: ({ loss, triggers }) => {
      losses.push(loss);
      kept.push(triggers!);
    },
  });
  t.equal(losses.length, 3);
  const least = Math.min(...losses);
  t.ok(least < 0.8 * before.loss, `${before.loss}, then ${losses.join(" ")}`);
  const { ids, text } = job.triggers()!;
  t.same(ids, kept[losses.indexOf(least)], "of the best evaluation");
  t.same([...tokenizer.encode(text!)], ids);
  const files = job.files();
  t.same([...files.keys()], ["prompt.json"]);
  t.same(JSON.parse(Buffer.from(files.get("prompt.json")!).toString()), { text, token_ids: ids });
  // Once through the model and back, and six times through it.
  t.ok(job.training.progress.tokens > 6 * 8 * 3 * 5, `${job.training.progress.tokens} tokens`);

  const state = join(dir, "state");
  for (const until of [1, 3, 99]) {
    await using part = await Job.open(runtime, request(), until === 1);
    const { training, origin } = part;
    if (until > 1) await restoreState(state, training, origin);
    const stop = new AbortController();
    await runTraining(training, {
      signal: stop.signal,
      save: () => saveState(state, training, origin),
      onUpdate: ({ step }) => step >= until && stop.abort(),
    });
    if (until < 99) continue;
    t.same(training.progress, job.training.progress);
    t.same(part.triggers(), job.triggers());
  }
  await using other = await Job.open(runtime, request({ options: { candidates: 7 } }), false);
  await t.rejects(restoreState(state, other.training, other.origin), { message: /another candidates/ });
});

t.test("options that cannot be are told", async (t) => {
  const none: { candidates?: number } & TrainRequest["options"] = { ...request().options };
  Reflect.deleteProperty(none, "candidates");
  for (const [change, message] of [
    [{ options: { hidden: 8 } }, /Triggers are tokens: leave out the hidden size/],
    [{ options: { kind: "prompt" } }, /Only a search for triggers has candidates/],
    [{ initial: { kind: "folder", dir } }, /begins with a text, not with values/],
    [{ options: { virtualTokens: 511 } }, /do not fit/],
  ] as const)
    await t.rejects(Job.open(runtime, request(change), true), { code: "options_invalid", message });
  await t.rejects(Job.open(runtime, { ...request(), options: none }, true), { message: /number of candidates/ });
});
