/** What the page for training computes: progress from a job's events, the request from a form. */
import t from "tap";
import { DEFAULTS, EMPTY_ORDER, orderBody, orderOf, proposedName } from "../../src/console/train/order.ts";
import { progressOf, type Job, type JobEvent } from "../../src/console/train/progress.ts";
import { DEFAULT_BATCH, defaultLearningRate } from "../../src/training/defaults.ts";

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
  const rate = { plain: defaultLearningRate(null), network: defaultLearningRate(512) };
  t.match(DEFAULTS, { batch: DEFAULT_BATCH, rate });
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
