import { fileURLToPath } from "node:url";
import t from "tap";
import { examine } from "../../src/doctor/examine.ts";
import { httpWorkerProblem, processorsForWorkers, type TrialOptions } from "../../src/doctor/http-workers.ts";
import { reportText } from "../../src/doctor/text.ts";

t.setTimeout(120_000);

const entry = (name: string): TrialOptions => ({
  entry: fileURLToPath(new URL(`children/${name}.ts`, import.meta.url)),
});

t.test("processors that the server's thread and the model leave", async (t) => {
  const left = (cores: number, quota: number | null, modelThreads: number | null): number =>
    processorsForWorkers({ model: "a CPU", cores, quota, vector_extensions: null }, modelThreads);
  t.equal(left(16, null, null), 15, "the model is on a GPU");
  t.equal(left(16, 4.5, null), 3, "of whole processors that a container may use");
  t.equal(left(16, 64, null), 15);
  t.equal(left(1, null, null), 0);
  t.equal(left(16, null, 0), 0, "by default a model on the CPU takes all");
  t.equal(left(16, null, 8), 7);
  t.equal(left(16, 4, 8), 0);
});

t.test("a worker that holds a connection is no problem; others are reported", async (t) => {
  t.equal(await httpWorkerProblem(), null);
  t.equal(await httpWorkerProblem(entry("leave")), "an HTTP worker ended at its start: 7");
  process.env["PREFIXD_ADMIN_KEY"] = "a".repeat(32);
  t.teardown(() => delete process.env["PREFIXD_ADMIN_KEY"]);
  t.equal(await httpWorkerProblem(entry("leave-by-secret")), "an HTTP worker ended at its start: 3", "it gets no key");
  t.equal(await httpWorkerProblem({ ...entry("mute-worker"), timeoutMs: 300 }), "a worker did not answer within 0.3 s");
});

t.test("the report has it, and the device works all the same", async (t) => {
  const common = { device: "cpu", precision: "fp32", slots: 32, devices: ["cpu"] } as const;
  const report = await examine({ ...common, httpWorker: entry("leave") });
  t.match(report, { ok: true, http_workers: { usable: false, problem: /ended at its start/, processors: 0 } });
  t.match(reportText(report), /^HTTP workers: not usable\. an HTTP worker ended at its start: 7$/m);
  const text = (processors: number): string =>
    reportText({ ...report, http_workers: { usable: true, problem: null, processors } });
  t.match(text(0), /^HTTP workers: usable, one was tried; no processor is left for them beside/m);
  t.match(text(1), /; 1 processor is left/);
  t.match(text(3), /; 3 processors are left/);
});
