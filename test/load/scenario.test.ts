import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { parseShape, readModelConfig } from "../../src/load/prefix-content.ts";
import { durationOf, loadScenario, override, parseScenario, SCENARIOS } from "../../src/load/scenario.ts";
import { readTrace } from "../../src/load/trace.ts";

const dir = mkdtempSync(join(tmpdir(), "prefixd-load-"));
t.teardown(() => rmSync(dir, { recursive: true }));
const file = (name: string, text: string): string => {
  writeFileSync(join(dir, name), text);
  return join(dir, name);
};

t.test("all built-in scenarios are valid and named as their file", async (t) => {
  for (const name of SCENARIOS) t.equal(loadScenario(name).name, name);
});

t.test("errors name what is wrong", async (t) => {
  const smoke = loadScenario("smoke");
  /** The scenario with another value at a path; undefined: without it. */
  const changed = (path: string, value: unknown): unknown => {
    const copy = structuredClone(smoke);
    const names = path.split(".");
    const last = names.pop()!;
    let place = copy as unknown as Record<string, unknown>;
    for (const name of names) place = place[name] as Record<string, unknown>;
    if (value === undefined) delete place[last];
    else place[last] = value;
    return copy;
  };
  const wrong: [string, unknown, RegExp][] = [
    ["an unknown field", changed("speed", 1), /field that does not exist: speed/],
    [
      "an unknown field in a group",
      changed("groups.0.colour", 1),
      /groups\[0\] has a field that does not exist: colour/,
    ],
    ["a share above 1", changed("groups.0.requests.stream", 2), /groups\[0\]\.requests\.stream must be <= 1/],
    ["a missing part", changed("slo", undefined), /required propert.*slo/],
    ["no groups", changed("groups", []), /groups must not have fewer than 1/],
    ["too many prefixes", changed("prefixes.count", 100_001), /prefixes\.count must be <= 100000/],
    [
      "a rate below 0",
      changed("groups.0.arrivals.steps.0.rate", -1),
      /groups\[0\]\.arrivals\.steps\[0\]\.rate must be >= 0/,
    ],
    ["two groups of one name", changed("groups.1.name", smoke.groups[0]!.name), /two groups are called steady/],
    ["criteria for no group", changed("pass.groups", { nobody: {} }), /pass\.groups\.nobody/],
    ["more changing prefixes than there are", changed("churn.prefixes", 41), /churn\.prefixes is 41, but there are 40/],
    ["no lengths", changed("groups.0.requests.prompt_tokens", undefined), /groups\[0\]\.requests needs prompt_tokens/],
    ["a trace's times without a trace", changed("groups.0.arrivals", { process: "trace" }), /needs requests\.trace/],
    ["no object", [], /object/],
  ];
  for (const [name, scenario, message] of wrong)
    t.throws(() => parseScenario(scenario), { name: "ScenarioError", message }, name);
  t.throws(() => loadScenario("no-such"), { name: "ScenarioError", message: /neither a file nor one of smoke/ });
  t.throws(() => loadScenario(file("bad.json", "{")), { name: "ScenarioError", message: /bad\.json: / });
});

t.test("flags change duration, rate, clients, prefixes and seed, not the shape", async (t) => {
  const spike = loadScenario("spike");
  const shorter = override(spike, { duration: 12, rate: 40 });
  t.equal(Math.round(durationOf(shorter) * 1000), 12_000);
  t.match(shorter.groups[0]!.arrivals, {
    steps: [
      { for_s: 3, rate: 2 },
      { for_s: 3, rate: 40 },
      { for_s: 6, rate: 2 },
    ],
  });
  t.equal(durationOf(spike), 80, "the original is as it was");
  t.equal(override(loadScenario("steady"), { peakOfCapacity: 0.3 }).peak_of_capacity, 0.3);
  const ramp = parseScenario({
    ...spike,
    groups: [{ ...spike.groups[0], arrivals: { process: "poisson", steps: [{ for_s: 1, rate: 8, to: 80 }] } }],
  });
  t.match(override(ramp, { rate: 40 }).groups[0]!.arrivals, { steps: [{ rate: 4, to: 40 }] });
  const smoke = override(loadScenario("smoke"), { clients: 8, prefixes: 3, seed: 9 });
  t.match(smoke, {
    prefixes: { count: 3 },
    seed: 9,
    churn: { prefixes: 3 },
    groups: [{}, { arrivals: { steps: [{ clients: 8 }] } }],
  });
  t.throws(() => override(spike, { clients: 3 }), /no closed loop/);
  t.throws(() => override(loadScenario("smoke"), { prefixes: 0 }), /prefixes\.count/);
});

t.test("traces", async (t) => {
  const path = file(
    "trace.jsonl",
    '{"prompt_tokens": 5, "max_new_tokens": 7, "at_s": 2, "user": "ann"}\n\n{"prompt_tokens": 6, "max_new_tokens": 8, "at_s": 1}\n',
  );
  t.same(
    readTrace(path, true).map((line) => line.prompt_tokens),
    [6, 5],
    "by time",
  );
  t.same(
    readTrace(path, false).map((line) => line.prompt_tokens),
    [5, 6],
    "as it stands",
  );
  t.throws(
    () => readTrace(file("a.jsonl", '{"prompt_tokens": 5, "max_new_tokens": 7}\n'), true),
    /line 1: at_s is missing/,
  );
  t.throws(
    () => readTrace(file("b.jsonl", '{"prompt_tokens": 5, "max_new_tokens": 7}\n{"prompt_tokens": 0}\n'), false),
    /line 2: expected whole numbers/,
  );
  t.throws(() => readTrace(file("c.jsonl", "\n"), false), /no lines/);
  t.throws(() => readTrace(join(dir, "none"), false), { name: "ScenarioError" });
});

t.test("the model's shape", async (t) => {
  t.same(parseShape("12,12,64"), { layers: 12, heads: 12, headDim: 64 });
  for (const text of ["12,12", "12,12,64,1", "a,b,c", "0,1,1", ""])
    t.throws(() => parseShape(text), { name: "ScenarioError" }, text);
  t.same(readModelConfig("models/demo/config.json"), { shape: { layers: 4, heads: 8, headDim: 32 }, vocabulary: 4096 });
  t.throws(() => readModelConfig(file("config.json", "{}")), /lacks n_layer/);
});
