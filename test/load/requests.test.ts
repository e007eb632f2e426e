import t from "tap";
import { RequestSource } from "../../src/load/requests.ts";
import { parseScenario } from "../../src/load/scenario.ts";
import { drawCases } from "../../src/load/verify.ts";
import { buildTestApp, TEST_SHAPE } from "../support/app.ts";

const VOCABULARY = TEST_SHAPE.vocabSize;

t.test("requests do not depend on the model's defaults", async (t) => {
  const { fastify, engine } = await buildTestApp(t, {
    defaults: { num_beams: 4, early_stopping: true, n: 2, do_sample: true, temperature: 2, stop: ["a"] },
  });
  const lengths = { prompt_tokens: { uniform: [2, 9] }, max_new_tokens: { uniform: [2, 9] } };
  const scenario = parseScenario({
    name: "defaults",
    description: "",
    prefixes: { count: 1, virtual_tokens: 1, popularity: "uniform" },
    groups: [
      {
        name: "all",
        users: 1,
        arrivals: { process: "closed", steps: [{ for_s: 1, clients: 1 }] },
        requests: { ...lengths, stream: 0.5, sample: 0.5, base_model: 1 },
      },
    ],
    verify: { cases: 1, share: 0, ...lengths },
    slo: { ttft_ms: 1, inter_token_ms: 1 },
    pass: {},
  });
  const source = new RequestSource(
    scenario,
    scenario.groups[0]!,
    { prefixes: [], poisoned: [], cases: [], vocabulary: VOCABULARY },
    null,
  );
  const bodies = [
    ...Array.from({ length: 20 }, () => source.next().body),
    ...drawCases(scenario, [], 0, VOCABULARY).map(({ body }) => body),
  ];
  t.equal(new Set(bodies.map(({ stream, do_sample }) => `${String(stream)} ${String(do_sample)}`)).size, 5);
  for (const payload of bodies) {
    const answer = await fastify.inject({ method: "POST", url: "/generate", payload });
    t.equal(answer.statusCode, 200, JSON.stringify(payload));
    t.match(engine.submitted.at(-1), { n: 1, sampling: { doSample: payload.do_sample === true } });
  }
  t.equal(engine.submitted.length, bodies.length, "one row each");
});
