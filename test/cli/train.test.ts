import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { ConfigError } from "../../src/errors.ts";
import { readTrainFlags } from "../../src/cli/train-flags.ts";
import { runCli } from "../support/server.ts";

const dir = mkdtempSync(join(tmpdir(), "prefixd-cli-train-"));
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

t.test("failures are told in one line", async (t) => {
  const line = async (...args: readonly string[]): Promise<string> => {
    const { code, err } = await run(...args);
    t.equal(code, 1);
    return err;
  };
  t.match(
    await line("--data", join(dir, "nowhere.jsonl"), "--out", join(dir, "x")),
    /^prefixd: ENOENT.*nowhere\.jsonl'\n$/,
  );
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
  t.match(complaint(...given, "--steps", "0"), /--steps 0: expected a whole number from 1/);
  t.match(complaint(...given, "--steps", "1.5"), /expected a whole number/);
  t.match(complaint(...given, "--learning-rate", "0"), /--learning-rate 0: expected a number above 0/);
  t.match(complaint(...given, "--learning-rate", "fast"), /expected a number above 0/);
  t.match(complaint(...given, "--dropout", "1.5"), /expected a number from 0 to 1/);
  t.match(complaint(...given, "--kind", "lora"), /expected prefix or prompt/);
  t.match(complaint(...given, "--threads", "x"), /--threads/);
  t.match(complaint(...given, "z"), /unexpected operand z/);
  t.match(complaint("--resume", "--out", "x", "--steps", "9"), /--steps: cannot be changed with --resume/);
  const command = readTrainFlags(["--data", "y", "--id", "mine", "--learning-rate", "5e-5", "--network", "512"], {});
  t.match(command, { id: "mine", out: /mine$/, request: { options: { learningRate: 5e-5, hidden: 512 } } });
});
