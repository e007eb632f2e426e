import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { ConfigError } from "../../src/errors.ts";
import { readTrainFlags } from "../../src/cli/train-flags.ts";
import { runCli, startServerProcess } from "../support/server.ts";

const dir = mkdtempSync(join(tmpdir(), "prefixd-cli-train-"));
t.teardown(() => rmSync(dir, { recursive: true }));
const data = join(dir, "data.jsonl");
const ROWS = Array.from({ length: 60 }, (_, i) => ({
  prompt: `${i} and ${i * 7}\n=>`,
  completion: ` ${i * 7} and ${i}`,
}));
writeFileSync(data, [...ROWS.map((row) => JSON.stringify(row)), '{"messages": []}', ""].join("\n"));
const FLAGS = ["--data", data, "--cache-dir", join(dir, "cache"), "--threads", "1", "--bad-lines", "0.1"];
const SHORT = [...FLAGS, "--steps", "8", "--batch-size", "4", "--virtual-tokens", "3", "--hold-out", "0.2"];
const weights = (folder: string): Buffer => readFileSync(join(folder, "adapter_model.safetensors"));

async function run(...args: readonly string[]): Promise<{ code: number | string; out: string; err: string }> {
  const cli = runCli(["train", ...args]);
  return { code: await cli.exited, out: cli.stdout(), err: cli.stderr() };
}

t.test("train writes PEFT's files, names bad lines, and resumes after Ctrl-C to the same bits", async (t) => {
  const whole = join(dir, "whole");
  const { code, out, err } = await run(...SHORT, "--out", whole);
  t.equal(code, 0, err);
  t.equal(out, `${whole}\n`);
  t.match(err, /data\.jsonl: line 61 is left out: it is a chat line/);
  t.match(err, /step 8\/8, loss [\d.]+, \d+ tokens\/s, 0:00 left; held out: loss [\d.]+, [\d.]+ % of tokens/);
  t.same(readdirSync(whole).sort(), ["adapter_config.json", "adapter_model.safetensors"]);

  const parts = join(dir, "parts");
  const cli = runCli(["train", ...SHORT, "--eval-every", "1", "--out", parts]);
  cli.child.stderr!.on("data", () => /step 2\/8/.test(cli.stderr()) && cli.child.kill("SIGINT"));
  t.equal(await cli.exited, 130, cli.stderr());
  t.match(cli.stderr(), /stopped at step \d; continue with: prefixd train --resume --out/);
  t.ok(existsSync(join(parts, "training.state")));
  t.match((await run(...SHORT, "--out", parts)).err, /unfinished training: give --resume to continue, or --force/);
  const resumed = await run("--resume", "--out", parts);
  t.equal(resumed.code, 0, resumed.err);
  t.match(resumed.err, /going on after step \d/);
  t.same(readdirSync(parts).sort(), ["adapter_config.json", "adapter_model.safetensors"]);
  const again = join(dir, "again");
  t.equal((await run(...SHORT, "--eval-every", "1", "--out", again)).code, 0);
  t.ok(weights(parts).equals(weights(again)));

  t.match((await run(...SHORT, "--out", whole)).err, /has adapter_config.json and adapter_model.safetensors already/);
  t.match((await run("--resume", "--out", whole)).err, /there is nothing to resume/);
});

t.test("--id registers what was trained with a running server; triggers are the same prompt typed", async (t) => {
  const server = await startServerProcess([
    "--model",
    "models/demo",
    "--cache-dir",
    join(dir, "cache"),
    "--threads",
    "1",
  ]);
  t.teardown(() => server.signal("SIGKILL"));
  const post = async (path: string, body: object): Promise<Record<string, unknown>> => {
    const init = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
    return (await (await fetch(server.url + path, init)).json()) as Record<string, unknown>;
  };
  const idsFor = async (prompt: string, prefix_id?: string): Promise<unknown> => {
    const body = { prompt, ...(prefix_id && { prefix_id }), max_new_tokens: 8, return_token_ids: true };
    return ((await post("/generate", body))["choices"] as Record<string, unknown>[] | undefined)?.[0]!["token_ids"];
  };
  const out = join(dir, "pushed");
  const prefix = await run(...SHORT, "--id", "pairs", "--out", out, "--url", server.url);
  t.equal(prefix.code, 0, prefix.err);
  t.match(
    prefix.out,
    new RegExp(`^${out}\nregistered pairs \\(PREFIX_TUNING, 3 virtual tokens, digest [0-9a-f]+\\)\n$`),
  );
  t.ok(weights(out).length > 0);

  const search = ["--kind", "triggers", "--tokens", "3", "--candidates", "4", "--steps", "3", "--batch-size", "4"];
  const given = [...FLAGS, ...search, "--hold-out", "0.2", "--init-text", "numbers"];
  const found = await run(...given, "--id", "words", "--out", join(dir, "words"), "--url", server.url);
  t.equal(found.code, 0, found.err);
  t.match(found.out, /registered words \(HARD_PROMPT, 3 virtual tokens/);
  t.match(found.err, /searching for 3 tokens on 48 examples: 3 steps of 4/);
  t.same(readdirSync(join(dir, "words")), ["prompt.json"]);
  const { text, token_ids } = JSON.parse(readFileSync(join(dir, "words", "prompt.json"), "utf8")) as {
    text: string;
    token_ids: number[];
  };
  t.ok(found.err.includes(`triggers: ${JSON.stringify(text)}, token ids ${token_ids.join(" ")}`), found.err);
  const prompt = " 3 and 21\n=>";
  const ids = await idsFor(prompt, "words");
  t.ok(Array.isArray(ids) && ids.length > 0, JSON.stringify(ids));
  t.same(ids, await idsFor(text + prompt), "typed before the prompt");
  t.match(
    (await run(...SHORT, "--out", join(dir, "words"))).err,
    /has prompt.json already/,
    "another kind does not mix with it",
  );
  t.equal((await run(...SHORT, "--out", join(dir, "words"), "--force")).code, 0);
  t.same(readdirSync(join(dir, "words")).sort(), ["adapter_config.json", "adapter_model.safetensors"]);
});

t.test("a search is interrupted, and killed, and resumed to the same triggers", async (t) => {
  const search = ["--kind", "triggers", "--tokens", "3", "--candidates", "4", "--steps", "6", "--batch-size", "4"];
  const given = [...FLAGS, ...search, "--hold-out", "0.2", "--eval-every", "1"];
  const whole = join(dir, "search");
  t.equal((await run(...given, "--out", whole)).code, 0);
  const parts = join(dir, "search-parts");
  for (const [signal, step] of [
    ["SIGINT", 2],
    ["SIGKILL", 4],
  ] as const) {
    const cli = runCli(["train", ...(signal === "SIGINT" ? given : ["--resume"]), "--out", parts]);
    cli.child.stderr!.on("data", () => cli.stderr().includes(`step ${step}/6`) && cli.child.kill(signal));
    t.not(await cli.exited, 0, cli.stderr());
    t.ok(existsSync(join(parts, "training.state")));
  }
  const { code, err } = await run("--resume", "--out", parts);
  t.equal(code, 0, err);
  t.match(err, /going on after step \d/);
  t.same(readFileSync(join(parts, "prompt.json")), readFileSync(join(whole, "prompt.json")));
});

t.test("a device that is not there is one line", async (t) => {
  const cli = runCli(["train", ...SHORT, "--device", "cuda", "--out", join(dir, "cuda")]);
  t.equal(await cli.exited, 1);
  t.match(
    cli.stderr(),
    /prefixd: --device cuda cannot be used: [^\n]+ Run prefixd doctor --device cuda to see[^\n]+\n$/,
  );
  t.notOk(existsSync(join(dir, "cuda")));
});

t.test("failures are told in one line", async (t) => {
  const line = async (...args: readonly string[]): Promise<string> => {
    const { code, err } = await run(...args);
    t.equal(code, 1);
    return err;
  };
  t.match(
    await line("--data", data, "--out", join(dir, "x"), "--bad-lines", "0"),
    /1 of 61 lines are bad, more than 0 %/,
  );
  t.match(
    await line(...SHORT, "--id", "x", "--out", join(dir, "x"), "--url", "http://127.0.0.1:9"),
    /no server answers/,
  );
  t.notOk(existsSync(join(dir, "x")), "nothing is left");
});

t.test("flags", async (t) => {
  const complaint = (...args: readonly string[]): string => {
    try {
      readTrainFlags(args, {});
      return "none";
    } catch (error) {
      return error instanceof ConfigError ? error.message : String(error);
    }
  };
  t.match(complaint(), /give --out DIR or --id NAME/);
  t.match(complaint("--out", "x"), /give --data FILE/);
  const given = ["--out", "x", "--data", "y"];
  t.equal(complaint(...given), "none");
  t.match(complaint(...given, "--steps", "5", "--epochs", "1"), /--steps and --epochs: give only one/);
  t.match(complaint(...given, "--eval", "z", "--hold-out", "0.1"), /--eval and --hold-out: give only one/);
  t.match(complaint(...given, "--init-text", "z", "--init-from", "z"), /give only one/);
  t.match(complaint(...given, "--init-from", "z", "--init-normal"), /--init-from and --init-normal: give only one/);
  t.match(complaint(...given, "--kind", "triggers", "--init-normal"), /--init-normal is not for --kind triggers/);
  t.match(complaint(...given, "--steps", "0"), /--steps 0: expected a whole number from 1/);
  t.match(complaint(...given, "--steps", "1.5"), /expected a whole number/);
  t.match(complaint(...given, "--learning-rate", "0"), /--learning-rate 0: expected a number above 0/);
  t.match(complaint(...given, "--learning-rate", "fast"), /expected a number above 0/);
  t.match(complaint(...given, "--dropout", "1.5"), /expected a number from 0 to 1/);
  t.match(complaint(...given, "--kind", "lora"), /expected prefix, prompt or triggers/);
  t.match(complaint(...given, "--tokens", "5"), /--tokens is not for --kind prefix/);
  t.match(complaint(...given, "--kind", "prompt", "--any-token"), /--any-token is not for --kind prompt/);
  const triggers = [...given, "--kind", "triggers"];
  t.equal(complaint(...triggers, "--tokens", "5", "--candidates", "9", "--any-token", "--init-text", "a"), "none");
  t.match(
    complaint(...triggers, "--virtual-tokens", "5"),
    /--virtual-tokens is not for --kind triggers: give --tokens/,
  );
  t.match(complaint(...triggers, "--learning-rate", "1"), /--learning-rate is not for --kind triggers/);
  t.match(complaint(...triggers, "--network", "8"), /--network is not for --kind triggers/);
  t.match(complaint(...triggers, "--candidates", "0"), /--candidates 0: expected a whole number from 1/);
  t.match(complaint(...given, "--device", "tpu"), /--device tpu/);
  t.match(readTrainFlags([...given, "--device", "webgpu"], {}), { request: { options: { deviceKind: "webgpu" } } });
  t.match(readTrainFlags([...given, "--pack-weights"], {}), { request: { options: { packWeights: true } } });
  t.match(complaint(...given, "--device", "cuda", "--pack-weights"), /--pack-weights is not for --device cuda/);
  t.match(readTrainFlags(triggers, {}), { request: { options: { virtualTokens: 5, candidates: 20, steps: 100 } } });
  t.match(complaint(...given, "--threads", "x"), /--threads/);
  t.match(complaint(...given, "z"), /unexpected operand z/);
  t.match(complaint("--resume", "--out", "x", "--steps", "9"), /--steps: cannot be changed with --resume/);
  const command = readTrainFlags(["--data", "y", "--id", "mine", "--learning-rate", "5e-5", "--network", "512"], {});
  t.match(command, { id: "mine", out: /mine$/, request: { options: { learningRate: 5e-5, hidden: 512 } } });
});
