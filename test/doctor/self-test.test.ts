import { cpSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { compare, type ExpectedCase } from "../../src/doctor/compare.ts";
import { examine } from "../../src/doctor/examine.ts";
import { runSelfTest } from "../../src/doctor/self-test-process.ts";
import { reportText } from "../../src/doctor/text.ts";
import { goldenCases, goldenDir } from "../support/model.ts";

t.setTimeout(300_000);

const FOLDER = fileURLToPath(new URL("../../models/selftest", import.meta.url));
const MODEL = "gelu-new-f32";
const CPU = { device: "cpu", precision: "fp32", folder: FOLDER } as const;
const child = (name: string): { entry: string } => ({
  entry: fileURLToPath(new URL(`children/${name}.ts`, import.meta.url)),
});

interface Expected {
  readonly eos_token_id: number;
  cases: (ExpectedCase & { token_ids: number[]; token_logprobs: number[] })[];
}
const expected = (): Expected => JSON.parse(readFileSync(join(FOLDER, "expected.json"), "utf8")) as Expected;

t.test("the package's model, adapters and expected answers are PEFT's, and small", async (t) => {
  const files = (readdirSync(FOLDER, { recursive: true }) as string[]).filter((name) =>
    statSync(join(FOLDER, name)).isFile(),
  );
  t.ok(files.reduce((sum, name) => sum + statSync(join(FOLDER, name)).size, 0) < 300_000);
  const copies = files.filter((name) => !["README.md", "expected.json"].includes(name));
  t.ok(copies.includes("model.safetensors") && copies.length === 8, String(copies));
  for (const name of copies)
    t.ok(readFileSync(join(FOLDER, name)).equals(readFileSync(join(goldenDir(MODEL), name))), name);
  const golden = goldenCases(MODEL);
  const { eos_token_id, cases } = expected();
  t.equal(eos_token_id, golden.eosId);
  t.equal(cases.length, 6);
  t.ok(new Set(cases.map(({ adapter }) => adapter)).size >= 4, "the bare model and three prefixes");
  for (const item of cases) {
    const original = golden.cases.find(({ id }) => id === item.id)!;
    t.match(original, item);
    t.same(original.token_ids, item.token_ids);
    t.ok(Math.min(...original.margins) > 0.11, `${item.id} leaves fp16 no choice`);
    t.ok(
      original.repetition_penalty === undefined &&
        original.min_new_tokens === undefined &&
        original.hard_prompt_ids === undefined,
    );
  }
});

t.test("on the CPU it passes", async (t) => {
  const report = await runSelfTest(CPU);
  t.match(report, { precision: "fp32", passed: true, problem: null, requests: 6, allowed_difference: 2e-3 });
  t.ok(
    report.largest_logprob_difference! > 0 && report.largest_logprob_difference! < 1e-4,
    String(report.largest_logprob_difference),
  );
});

t.test("an answer that differs from what is expected fails it, and the doctor with it", async (t) => {
  const tampered = (change: (cases: Expected["cases"]) => void): string => {
    const dir = join(t.testdir(), "selftest");
    cpSync(FOLDER, dir, { recursive: true });
    const file = expected();
    change(file.cases);
    writeFileSync(join(dir, "expected.json"), JSON.stringify(file));
    return dir;
  };
  const token = tampered((cases) => (cases[3]!.token_ids[1] = 9));
  const report = await examine({ device: "cpu", precision: "fp32", slots: 32, devices: ["cpu"], folder: token });
  t.equal(report.ok, false);
  t.equal(report.devices.cpu!.usable, false);
  t.match(report.devices.cpu!.self_tests[0], {
    passed: false,
    problem: "prefix-p40-f16/1: token 1 is 250, PEFT generated 9",
  });
  t.match(
    reportText(report),
    /cpu: not usable\. prefix-p40-f16\/1: token 1 is 250[^]*--device cpu --precision fp32 does not work here/,
  );

  const logprob = tampered((cases) => (cases[5]!.token_logprobs[6]! -= 0.01));
  t.match(await runSelfTest({ ...CPU, folder: logprob }), {
    passed: false,
    problem: "log probabilities differ from PEFT's by 1.0e-2, more than 0.002",
  });
  const shorter = tampered((cases) => cases[0]!.token_ids.pop());
  t.match(await runSelfTest({ ...CPU, folder: shorter }), {
    passed: false,
    problem: "base/0: token 8 is 44, PEFT generated none",
  });
});

t.test("every way to differ is told", async (t) => {
  const cases = [
    {
      id: "a",
      adapter: null,
      prompt_ids: [1],
      max_new_tokens: 2,
      token_ids: [5, 6],
      finish_reason: "length",
      token_logprobs: [-1, -2],
    },
  ];
  const generated = (ids: number[], logprobs: number[], reason = "length") =>
    compare(cases, [{ ids, logprobs, reason }], "fp16");
  t.match(generated([5, 6], [-1.02, -2]), { problem: null, allowed_difference: 3e-2 });
  t.match(generated([5], [-1]), { problem: "a: token 1 is missing, PEFT generated 6" });
  t.match(generated([5, 6], [-1, -2], "eos"), { problem: "a: ended with eos, PEFT with length" });
  t.match(generated([5, 6], [-1, NaN]), { problem: /differ from PEFT's by Infinity/ });
  t.equal(
    generated([5, 7], [-1.01, 0]).largest_logprob_difference.toFixed(3),
    "0.010",
    "another token's logprob is not compared",
  );
});

t.test("where 8-bit products are not exact, int8 fails and says so; fp32 works", async (t) => {
  const reason =
    /^--precision int8 cannot be used: ONNX Runtime's 8-bit products are not exact on this processor \(a sum of \d+ comes out as /;
  const report = await examine({
    device: "cpu",
    precision: "int8",
    slots: 32,
    devices: ["cpu"],
    selfTest: child("inexact"),
  });
  t.equal(report.ok, false);
  t.match(report.devices.cpu!.self_tests, [
    { precision: "fp32", passed: true },
    { precision: "int8", passed: false, problem: reason },
  ]);
  t.match(
    reportText(report),
    /cpu: usable[^]*Self-test fp32: passed[^]*Self-test int8: failed after [\d.]+ s: --precision int8 cannot be used[^]*--device cpu --precision int8 does not work here/,
  );
});

t.test("on the CPU it passes in int8 as well", async (t) => {
  t.match(await runSelfTest({ ...CPU, precision: "int8" }), { precision: "int8", passed: true, problem: null });
});

t.test("a test whose process crashes, hangs or leaves is a report, not the doctor's end", async (t) => {
  t.match(await runSelfTest(CPU, child("crash")), {
    passed: false,
    problem: "the process crashed with SIGSEGV: driver: page fault",
    largest_logprob_difference: null,
  });
  t.match(await runSelfTest(CPU, { ...child("hang"), timeoutMs: 1500 }), {
    passed: false,
    problem: "no answer within 1.5 s: the driver or the device hangs",
  });
  t.match(await runSelfTest(CPU, child("leave")), { passed: false, problem: "the process ended with code 7" });
  t.match(await runSelfTest({ ...CPU, folder: t.testdir() }), { passed: false, problem: /config\.json/ });
  const report = await examine({
    device: "cpu",
    precision: "fp32",
    slots: 32,
    devices: ["cpu"],
    selfTest: child("crash"),
  });
  t.match(report, { ok: false, devices: { cpu: { usable: false } } });
});
