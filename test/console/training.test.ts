/** What the page for training computes: progress from a job's events, the request from a form. */
import t from "tap";
import {
  DEFAULT_BATCH,
  DEFAULTS,
  EMPTY_ORDER,
  orderBody,
  orderOf,
  proposedName,
  withKind,
} from "../../src/console/train/order.ts";
import { progressOf, type Job, type JobEvent } from "../../src/console/train/progress.ts";
import * as server from "../../src/training/defaults.ts";
import { TRIGGERS } from "../../src/training/options.ts";

let ids = 0;
const event = (created_at: number, data: JobEvent["data"] = {}, more: Partial<JobEvent> = {}): JobEvent => ({
  ...{ id: String(ids++), created_at, level: "info", message: "", data },
  ...more,
});
const step = (at: number, number: number, train_loss: number): JobEvent =>
  event(at, { step: number, train_loss, total_steps: 100 });

t.test("progress is what the newest events say", async (t) => {
  t.match(progressOf([event(0)]), { step: 0, steps: null, losses: [], evaluations: [], secondsLeft: null });
  const begun = [event(0), step(10, 10, 3), step(20, 20, 2)];
  t.match(progressOf([...begun].reverse()), {
    ...{ step: 20, steps: 100, secondsLeft: 80 },
    losses: [
      [10, 3],
      [20, 2],
    ],
  });
  // A process that was killed went on from step 10, half as fast.
  const resumed = [...begun, step(100, 15, 2.5), step(110, 20, 2.25)];
  t.match(progressOf([...resumed].reverse()), {
    ...{ step: 20, secondsLeft: 160 },
    losses: [
      [10, 3],
      [15, 2.5],
      [20, 2.25],
    ],
  });
  const evaluated = [
    ...begun,
    event(21, { step: 20, full_valid_loss: 2.5, full_valid_mean_token_accuracy: 0.5 }),
    event(22, {}, { level: "warn", message: "line 3 is left out" }),
  ];
  t.match(progressOf([...evaluated].reverse()), {
    evaluations: [{ step: 20, loss: 2.5, accuracy: 0.5 }],
    warnings: ["line 3 is left out"],
  });
});

t.test("a form begins with the server's defaults, and without steps the data decides", async (t) => {
  t.equal(DEFAULT_BATCH, server.DEFAULT_BATCH);
  const [plain, network] = [server.defaultLearningRate(null), server.defaultLearningRate(512)];
  t.match(DEFAULTS, { prefix: { rate: plain }, network: { rate: network }, prompt: { rate: plain } });
  t.same(DEFAULTS.triggers, { rate: null, ...TRIGGERS });
  const body = JSON.stringify(orderBody({ ...EMPTY_ORDER, name: "a" }, "demo", "file-1"));
  t.notMatch(body, /n_steps|n_epochs/);
});

t.test("a form becomes a request, and a job the form again", async (t) => {
  const order = { ...EMPTY_ORDER, name: "dates", kind: "network", steps: "50", rate: "0.009" } as const;
  const body = orderBody(order, "demo", "file-1") as { method: { supervised: { hyperparameters: object } } };
  const { hyperparameters } = body.method.supervised;
  t.match(body, { model: "demo", training_file: "file-1", prefix_id: "dates", validation_file: undefined });
  t.same(hyperparameters, {
    ...{ n_steps: 50, batch_size: 8, learning_rate_multiplier: 3, num_virtual_tokens: 10 },
    ...{ peft_type: "PREFIX_TUNING", prefix_projection: true },
  });
  t.same(orderOf({ prefix_id: "dates", hyperparameters } as unknown as Job), order);
  const prompt = { ...EMPTY_ORDER, name: "p", kind: "prompt", initText: "a date", held: "file-2" } as const;
  t.match(orderBody(prompt, "demo", "file-1"), {
    validation_file: "file-2",
    method: { supervised: { hyperparameters: { peft_type: "PROMPT_TUNING", init_text: "a date" } } },
  });
});

t.test("a search has candidates and no rate, and its own number of tokens", async (t) => {
  const order = withKind({ ...EMPTY_ORDER, name: "words", initText: "dates" }, "triggers");
  const body = orderBody(order, "demo", "file-1") as { method: { supervised: { hyperparameters: object } } };
  const { hyperparameters } = body.method.supervised;
  t.same(hyperparameters, {
    ...{ batch_size: 8, num_candidates: 20, num_virtual_tokens: 5 },
    ...{ peft_type: "TRIGGERS", init_text: "dates" },
  });
  t.same(orderOf({ prefix_id: "words", hyperparameters } as unknown as Job), order);
  t.match(withKind(order, "network"), { tokens: "10", rate: "0.003" });
  t.match(withKind({ ...order, tokens: "7" }, "prefix"), { tokens: "7" }, "what was typed stays");
});

t.test("names that a prefix may have", async (t) => {
  for (const [file, name] of [
    ["my dates.jsonl", "my-dates"],
    ["._ä.v2.jsonl", "v2"],
    ["<b>", "b-"],
    ["x".repeat(200), "x".repeat(100)],
    ["…", ""],
  ])
    t.equal(proposedName(file!), name);
});
