/** Prefixes by `prefixd train`, and their answers by `prefixd serve`, both as a user has them. */
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { pushFolder } from "../../src/cli/push.ts";
import { DEMO } from "../support/gpt2.ts";
import { CLI, listening } from "../support/server-process.ts";
import { loadTokenizer, type Tokenizer } from "../../src/text/tokenizer.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { BUDGETS, type Run } from "./plan.ts";

export const BEAMS = 5;
export const MAX_TOKENS = 300;
export const MAX_NEW_TOKENS = 90;
/** Evaluations of a training, of which the best is kept. */
export const EVALUATIONS = 4;
/** Beam searches at once: with five beams each, all but two of the server's 32 rows. */
const AT_ONCE = 6;
const PREFIX_ID = "paper";

export const evaluateEvery = (run: Run): number => Math.ceil(BUDGETS[run.budget].steps / EVALUATIONS);

/** How a child process runs: the signal ends it. */
export interface ChildOptions {
  readonly threads: number;
  readonly signal: AbortSignal;
}

/** Trains into `out` and returns the best loss on the dev rows. Throws Error with what the command said. */
export async function trainPrefix(
  run: Run,
  files: { readonly train: string; readonly dev: string },
  out: string,
  { threads, signal }: ChildOptions,
): Promise<number> {
  const { steps, batch } = BUDGETS[run.budget];
  const flags: Record<string, string | number> = {
    "--data": files.train,
    "--eval": files.dev,
    "--out": out,
    "--model": DEMO,
    "--kind": run.method,
    "--virtual-tokens": run.size,
    "--learning-rate": run.rate,
    "--steps": steps,
    "--batch-size": batch,
    "--eval-every": evaluateEvery(run),
    "--max-tokens": MAX_TOKENS,
    "--seed": run.seed,
    "--threads": threads,
    ...(run.init === null ? {} : { "--init-text": run.init }),
    ...(run.network === 0 ? {} : { "--network": run.network }),
  };
  rmSync(out, { recursive: true, force: true });
  const fromNormal = run.method === "prefix" && run.network === 0 && run.init === null;
  const args = Object.entries(flags).flatMap(([flag, value]) => [flag, String(value)]);
  const { stderr } = await promisify(execFile)(
    process.execPath,
    [CLI, "train", ...args, ...(fromNormal ? ["--init-normal"] : [])],
    {
      maxBuffer: 1 << 26,
      signal,
    },
  );
  const losses = [...stderr.matchAll(/held out: loss (\d+\.\d+)/g)].map(([, loss]) => Number(loss));
  if (losses.length === 0) throw new Error(`prefixd train evaluated nothing: ${stderr}`);
  return Math.min(...losses);
}

/** A server of the demo model. */
export class PaperServer implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #url: string;
  readonly #tokenizer: Tokenizer;
  #prefixId: string | null = null;

  static async start(work: string, { threads, signal }: ChildOptions): Promise<PaperServer> {
    const store = join(work, "store");
    rmSync(store, { recursive: true, force: true });
    const flags = ["--port", "0", "--model", DEMO, "--store", `lmdb:${store}`, "--threads", String(threads)];
    const child = spawn(process.execPath, [CLI, "serve", ...flags], { stdio: ["ignore", "pipe", "inherit"], signal });
    child.on("error", () => {}); // Of the signal; whatever else ends it closes its log.
    const url = await listening(child.stdout, once(child, "close"));
    const checkpoint = await openCheckpoint(DEMO);
    const tokenizer = await loadTokenizer(DEMO, checkpoint.shape.vocabSize);
    await checkpoint.close();
    return new PaperServer(child, url, tokenizer);
  }

  private constructor(child: ChildProcess, url: string, tokenizer: Tokenizer) {
    this.#child = child;
    this.#url = url;
    this.#tokenizer = tokenizer;
  }

  /** Later answers and losses are under the prefix in this folder. */
  async load(folder: string): Promise<void> {
    await pushFolder(folder, PREFIX_ID, this.#url, undefined);
    this.#prefixId = PREFIX_ID;
  }

  /** Later ones are the base's. */
  unload(): void {
    this.#prefixId = null;
  }

  answers(prompts: readonly string[]): Promise<string[]> {
    return this.#all(prompts, async (prompt) => {
      const body = { prompt, prefix_id: this.#prefixId, num_beams: BEAMS, max_new_tokens: MAX_NEW_TOKENS };
      return (await this.#generate(body)).text.trim();
    });
  }

  /** Mean over the completions' tokens and their ends, in nats, as `prefixd train` evaluates it. */
  async loss(file: string): Promise<number> {
    const lines = readFileSync(file, "utf8").trim().split("\n");
    const losses = await this.#all(lines, async (line) => {
      const { prompt, completion } = JSON.parse(line) as { prompt: string; completion: string };
      const ids = [...this.#tokenizer.encode(prompt)];
      const target = [...this.#tokenizer.encode(completion), this.#tokenizer.eosId!];
      const body = {
        prompt: [...ids, ...target],
        prefix_id: this.#prefixId,
        echo: true,
        logprobs: 0,
        max_new_tokens: 0,
      };
      const { logprobs } = await this.#generate(body);
      return logprobs!.token_logprobs.slice(ids.length).map((logprob) => -logprob!);
    });
    const all = losses.flat();
    return all.reduce((sum, one) => sum + one, 0) / all.length;
  }

  async #generate(body: object): Promise<Choice> {
    const init = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
    const response = await fetch(`${this.#url}/generate`, init);
    if (!response.ok) throw new Error(`/generate: ${await response.text()}`);
    return ((await response.json()) as { choices: [Choice] }).choices[0];
  }

  async #all<T, R>(items: readonly T[], ask: (item: T) => Promise<R>): Promise<R[]> {
    const answers = new Array<R>(items.length);
    let next = 0;
    const one = async (): Promise<void> => {
      for (let at = next++; at < items.length; at = next++) answers[at] = await ask(items[at]!);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, one));
    return answers;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, "exit");
    this.#child.kill();
    await ended;
  }
}

interface Choice {
  readonly text: string;
  readonly logprobs?: { readonly token_logprobs: readonly (number | null)[] };
}
