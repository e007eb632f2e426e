import t from "tap";
import { isAnnotation, KEYWORDS } from "../../../src/structured/schema/keywords.ts";
import { FORMATS } from "../../../src/structured/schema/formats.ts";
import type { Position } from "../../../src/structured/position.ts";
import { buildTestApp, post, type TestApp } from "../../support/app.ts";
import { docsBlock, markdownTable } from "../../support/docs-block.ts";

const REFUSALS: readonly (readonly [body: object, code: string, message: RegExp])[] = [
  [{ structured_outputs: {} }, "invalid_parameter", /exactly one of choice, regex, json, json_object; it has none/],
  [{ structured_outputs: { choice: ["a"], regex: "a" } }, "invalid_parameter", /it has choice and regex/],
  [{ structured_outputs: { choice: [] } }, "invalid_parameter", /structured_outputs.choice must/],
  [{ structured_outputs: { json: "{}" } }, "invalid_parameter", /structured_outputs.json must be/],
  [{ structured_outputs: { json_object: false } }, "invalid_parameter", /structured_outputs.json_object/],
  [{ structured_outputs: { grammar: "x" } }, "unsupported_parameter", /structured_outputs/],
  [{ structured_outputs: { choice: ["a"], backend: "x" } }, "unknown_field", /backend/],
  [{ structured_outputs: { choice: Array.from({ length: 100_000 }, () => "") } }, "body_too_large", /./],
  [
    { structured_outputs: { choice: Array.from({ length: 5_000 }, () => "a") } },
    "invalid_parameter",
    /more than 1024 items/,
  ],
  [{ structured_outputs: { regex: "a(?=b)" } }, "constraint_unsupported", /at character 2/],
  [
    { structured_outputs: { json: { type: "integer", multipleOf: 3 } } },
    "constraint_unsupported",
    /At \/multipleOf of the schema/,
  ],
  [{ structured_outputs: { json: { $ref: "#" } } }, "constraint_invalid", /leads back to itself/],
  [{ structured_outputs: { regex: "(a{1,1000}){1,1000}" } }, "constraint_too_complex", /parts/],
  [{ structured_outputs: { choice: [""] } }, "constraint_invalid", /empty text/],
  [
    { structured_outputs: { choice: ["a"] }, forced_eos_token_id: 5 },
    "invalid_parameter",
    /forced_eos_token_id cannot be used with structured_outputs/,
  ],
  [{ structured_outputs: { choice: ["a"] }, forced_bos_token_id: 5 }, "invalid_parameter", /forced_bos_token_id/],
  ...[
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "json_schema",
    "grammar",
    "format",
    "response_format",
  ].map((name) => [{ [name]: {} }, "unsupported_parameter", /use structured_outputs|"structured_outputs"/] as const),
];

t.test("refusals and their reasons", async (t) => {
  const app = await buildTestApp(t);
  for (const [fields, code, message] of REFUSALS) {
    const response = await app.fastify.inject(post("/generate", { prompt: "a", ...fields }));
    const problem = response.json<{ code: string; detail: string }>();
    t.equal(problem.code, code, JSON.stringify(fields).slice(0, 100));
    t.match(problem.detail, message);
    t.ok(response.statusCode === 400 || response.statusCode === 413);
  }
  t.match(await app.metrics.render(), /prefixd_constraint_refusals_total\{reason="constraint_unsupported"\} 2/);
  t.equal(app.engine.submitted.length, 0);
});

/** Ids of bytes: the fake tokenizer's. */
const scripted = (app: TestApp, text: string): void => {
  app.engine.script = (_request, _choice, k) => text.charCodeAt(k);
};

t.test("each prompt's engine request gets the constraint at its start", async (t) => {
  const app = await buildTestApp(t);
  scripted(app, "ab");
  const structured_outputs = { regex: "ab|cd", leading_space: null, choice: null };
  const body = { prompts: ["x", "y"], max_new_tokens: 2, structured_outputs };
  t.equal((await app.fastify.inject(post("/generate", body))).statusCode, 200);
  t.equal((await app.fastify.inject(post("/generate", body))).statusCode, 200);
  const [first, second, third] = app.engine.submitted;
  for (const { constraint } of app.engine.submitted) {
    const position = constraint as Position;
    t.same(
      [97, 98, 99, 32].map((id) => position.allows(id)),
      [true, false, true, true],
    );
    t.notOk(position.complete);
    t.ok(position.after(97).after(98).final);
  }
  t.ok(first!.preparation! > 0);
  t.equal(second!.preparation, 0, "the same request");
  t.equal(third!.preparation, 0, "compiled before");
  t.match(await app.metrics.render(), /prefixd_constraint_cache_hits_total 1/);
  await app.fastify.inject(post("/generate", { prompt: "x", max_new_tokens: 1 }));
  t.equal(app.engine.submitted.at(-1)!.constraint, null);
});

t.test("a leading space is not part of the text", async (t) => {
  const app = await buildTestApp(t);
  const textOf = async (written: string, structured_outputs: object, more: object = {}): Promise<string> => {
    scripted(app, written);
    const body = { prompt: "x", max_new_tokens: written.length, structured_outputs, ...more };
    return (await app.fastify.inject(post("/generate", body))).json<{ choices: [{ text: string }] }>().choices[0].text;
  };
  t.equal(await textOf(" ab", { regex: "ab" }), "ab");
  t.equal(await textOf("ab", { regex: "ab" }), "ab");
  t.equal(await textOf(" ab", { regex: "ab" }, { stop: ["zzz", " q"] }), "ab");
  t.equal(await textOf(" ab", { regex: "ab" }, { echo: true }), "xab");
  t.equal(await textOf(" ab", { regex: " ?ab" }), " ab", "it may begin with a space itself");
  t.equal(await textOf(" ab", { choice: ["cd", " ab"] }), " ab", "one of the choices does");
  t.equal(await textOf(" ab", { choice: ["ab", "cd"] }), "ab");
  t.equal(await textOf("ab", { regex: "ab", leading_space: false }), "ab");
  t.notOk((app.engine.submitted.at(-1)!.constraint as Position).allows(32));
  scripted(app, " ab");
  const stream = await app.fastify.inject(
    post("/generate", { prompt: "x", max_new_tokens: 3, stream: true, structured_outputs: { regex: "ab" } }),
  );
  const texts = [...stream.body.matchAll(/"text":"(.*?)"/g)].map((match) => match[1]);
  t.equal(texts.join(""), "ab");
});

t.test("the reference lists every keyword", async (t) => {
  const rows = Object.entries(KEYWORDS).map(([name, { treatment, note = "" }]) => ["`" + name + "`", treatment, note]);
  const table = markdownTable(["keyword", "", ""], rows);
  t.equal(docsBlock("docs/reference/structured-output.md", "keywords", table), table);
  t.ok(isAnnotation("title") && !isAnnotation("type") && !isAnnotation("toString"));
  t.same(
    Object.keys(FORMATS).every((name) => KEYWORDS["format"]!.note!.includes(name)),
    true,
  );
});
