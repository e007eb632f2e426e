/**
 * How long does one training step take, beside torch with PEFT? Both in turn, in one run, on the same batches' shapes.
 *
 *     npx tsx bench/training-step.ts MODEL_FOLDER PYTHON [ROUNDS] [THREADS]
 *
 * PYTHON has torch, transformers and peft. A step is forward, backward and AdamW on a raw prefix of 10 virtual tokens.
 */
import { spawn } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { openCheckpoint } from "../src/model/checkpoint.ts";
import { TrainModel } from "../src/model/train-model.ts";
import { Runtime } from "../src/runtime/session.ts";
import { AdamW } from "../src/training/optimizer.ts";
import { rawValues } from "../src/training/parametrisation.ts";
import { seededRandom } from "../src/load/random.ts";

/** Rows, tokens of a row, and the share of them that is learned. */
const SHAPES = [
  { rows: 4, tokens: 128, share: 0.25 },
  { rows: 4, tokens: 128, share: 1 },
];

const TORCH = `
import json, sys, time, torch
from transformers import GPT2LMHeadModel
from peft import PrefixTuningConfig, get_peft_model
torch.set_num_threads(int(sys.argv[2]))
base = GPT2LMHeadModel.from_pretrained(sys.argv[1], dtype=torch.float32)
model = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=10)).eval()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
for line in sys.stdin:
    shape = json.loads(line)
    ids = torch.randint(base.config.vocab_size, (shape["rows"], shape["tokens"]))
    labels = ids.clone()
    labels[:, : shape["tokens"] - max(1, round(shape["tokens"] * shape["share"]))] = -100
    begin = time.perf_counter()
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(json.dumps(1000 * (time.perf_counter() - begin)), flush=True)
`;

const [folder, python, rounds = "7", threadsText = "2"] = process.argv.slice(2);
if (folder === undefined || python === undefined)
  throw new Error("usage: training-step.ts MODEL_FOLDER PYTHON [ROUNDS] [THREADS]");
const threads = Number(threadsText);
using runtime = new Runtime();
const checkpoint = await openCheckpoint(folder);
const graphs = mkdtempSync(join(tmpdir(), "prefixd-bench-"));
const options = { kind: "prefix", virtualTokens: 10, hidden: null, threads, graphs } as const;
using model = await TrainModel.open(runtime, checkpoint, options);
const parametrisation = rawValues(model.step);
const optimizer = new AdamW([...parametrisation.parameters.values()]);
const random = seededRandom(1);
const torch = spawn(python, ["-c", TORCH, folder, threadsText], { stdio: ["pipe", "pipe", "ignore"] });
const answers = createInterface({ input: torch.stdout })[Symbol.asyncIterator]();

type Shape = (typeof SHAPES)[number];
async function ownStep({ rows, tokens, share }: Shape): Promise<number> {
  // The last token is only predicted.
  const sequences = Array.from({ length: rows }, () => ({
    ids: Int32Array.from({ length: tokens }, () => Math.floor(random() * checkpoint.shape.vocabSize)),
    firstTarget: tokens - Math.min(tokens - 1, Math.max(1, Math.round(tokens * share))),
    endTarget: tokens,
  }));
  const began = performance.now();
  parametrisation.forward();
  await model.step.run([sequences]);
  optimizer.update(1e-3);
  return performance.now() - began;
}

async function torchStep(shape: Shape): Promise<number> {
  torch.stdin.write(`${JSON.stringify(shape)}\n`);
  const answer = await answers.next();
  if (answer.done === true) throw new Error(`${python} ended`);
  return Number(answer.value);
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;
console.log(`${cpus()[0]?.model ?? "unknown processor"}, ${threads} threads, ${rounds} rounds after one to warm up`);
for (const shape of SHAPES) {
  const own: number[] = [];
  const others: number[] = [];
  for (let round = -1; round < Number(rounds); round++) {
    const [a, b] = [await ownStep(shape), await torchStep(shape)];
    if (round >= 0) [own, others].forEach((list, i) => list.push(i === 0 ? a : b));
  }
  const ratios = own.map((value, i) => value / others[i]!);
  console.log(
    `${shape.rows} x ${shape.tokens}, ${100 * shape.share} % learned: ${median(own).toFixed(0)} ms, torch + PEFT ${median(others).toFixed(0)} ms, ratio ${median(ratios).toFixed(2)}`,
  );
}
torch.stdin.end();
await checkpoint.close();
