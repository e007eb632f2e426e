/** lm-evaluation-harness scores and generates through /v1/completions, of a prefix, as its `local-completions` model. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import t from "tap";
import { ROOT } from "../support/program.ts";
import { lacking, PYTHON } from "../support/requirements.ts";
import { startServerProcess, temporaryFolder } from "../support/server.ts";

const CONTEXT = "It was finished on August 14th, 2024.\n=>";
const PAIRS = [
  [CONTEXT, " 2024-08-14"],
  [CONTEXT, " 2024-08-15"],
] as const;

interface Said {
  readonly scores: readonly (readonly [sum: number, isLikeliest: boolean])[];
  readonly lines: readonly string[];
}

t.test("local-completions", { skip: lacking("lm-eval") }, async (t) => {
  const { path: folder, remove } = temporaryFolder();
  const server = await startServerProcess(["--store", `lmdb:${folder}`, "--prefixes", "prefixes"]);
  t.teardown(async () => {
    server.signal("SIGKILL");
    await server.exited;
    remove();
  });
  const said = await evaluate(server.url, "datenorm");
  t.equal(said.length, 4, "one after another, together, beside each other, and tokenized by the server");
  for (const { scores, lines } of said) {
    t.same(
      scores.map(([, isLikeliest]) => isLikeliest),
      [true, false],
    );
    t.same(lines, [" 2024-08-14", " 2024-08-14"]);
    for (const [index, [context, continuation]] of PAIRS.entries()) {
      const both = await echoed(context + continuation);
      const alone = await echoed(context);
      const own = both.slice(alone.length).reduce<number>((sum, logprob) => sum + (logprob ?? NaN), 0);
      t.equal(scores[index]![0].toFixed(4), own.toFixed(4));
    }
  }

  async function echoed(prompt: string): Promise<readonly (number | null)[]> {
    const { body } = await server.json("/v1/completions", {
      ...{ model: "datenorm", prompt, echo: true, logprobs: 1, max_tokens: 0 },
    });
    return body.choices[0]!.logprobs!.token_logprobs;
  }
});

async function evaluate(url: string, model: string): Promise<readonly Said[]> {
  const child = spawn(PYTHON, [`${ROOT}/test/support/lm-eval.py`, url, model, `${ROOT}/models/demo`], {
    stdio: ["pipe", "pipe", "pipe"],
    timeout: 120_000,
  });
  let [out, err] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (part: string) => (out += part));
  child.stderr.setEncoding("utf8").on("data", (part: string) => (err += part));
  child.stdin.end(JSON.stringify(PAIRS));
  const [code] = (await once(child, "close")) as [number | null];
  if (code !== 0) throw new Error(err.slice(-2000));
  return out
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as Said);
}
