import t from "tap";
import { firstArrayFault, withoutIntegers } from "../../src/http/array-bounds.ts";
import { GenerateBody } from "../../src/http/generate/schema.ts";
import { HardPromptBody, SharingBody } from "../../src/http/prefixes/schema.ts";
import { CreateKeyBody, CreateUserBody, PatchUserBody } from "../../src/http/admin/schema.ts";
import { CompletionsBody } from "../../src/http/v1/completions-schema.ts";
import { DetokenizeBody } from "../../src/http/tokens/schema.ts";
import { buildTestApp, post } from "../support/app.ts";

interface Schema {
  readonly type?: unknown;
  readonly maxItems?: number;
  readonly items?: Schema | readonly Schema[];
  readonly anyOf?: readonly Schema[];
  readonly properties?: Readonly<Record<string, Schema>>;
}

t.test("every array of every body is bounded before its items are examined", (t) => {
  let arrays = 0;
  const check = ({ type, maxItems, items, anyOf = [], properties = {} }: Schema, path: string): void => {
    const alternatives = anyOf.filter((one) => one.type === "array");
    const ofIntegers = alternatives.filter(
      ({ items }) => items !== undefined && "type" in items && items.type === "integer",
    );
    if (alternatives.length > 1 && (alternatives.length > 2 || ofIntegers.length !== 1))
      t.fail(`${path} may be one of ${alternatives.length} arrays, which its first item does not tell apart`);
    if (type === "array") {
      arrays++;
      const counted = Array.isArray(items) || maxItems !== undefined;
      if (!counted && (items as Schema).type !== "integer") t.fail(`${path}: neither a bound, nor integers`);
      const known = new Set(["type", "minimum", "description"]);
      for (const item of [items ?? {}].flat()) {
        if (item.type === "integer")
          for (const keyword of Object.keys(item))
            if (!known.has(keyword)) t.fail(`${path}: ${keyword} of its integers is not checked`);
        check(item, `${path}[]`);
      }
    }
    for (const one of anyOf) check(one, path);
    for (const [name, field] of Object.entries(properties)) check(field, `${path}.${name}`);
  };
  for (const [name, schema] of Object.entries({
    GenerateBody,
    HardPromptBody,
    SharingBody,
    CreateKeyBody,
    CreateUserBody,
    PatchUserBody,
    CompletionsBody,
    DetokenizeBody,
  }))
    check(schema as Schema, name);
  t.ok(arrays >= 15, `${arrays} arrays`);
  t.end();
});

t.test("errors give an item's place; valid items are examined once", (t) => {
  const fault = (value: object): string | undefined => {
    const found = firstArrayFault(GenerateBody, value);
    return found === null ? undefined : `${found.instancePath} ${found.message}`;
  };
  t.equal(fault({ prompt: [1, 2, -1, "a"] }), "/prompt/2 must be >= 0");
  t.equal(fault({ prompts: ["a", [1], [1, 1.5]] }), "/prompts/2/1 must be integer");
  t.equal(
    fault({ prompts: Array.from({ length: 65 }, () => ["x"]) }),
    "/prompts must not have more than 64 items",
    "the length comes first",
  );
  t.equal(
    fault({
      sequence_bias: [
        [[1], 1],
        [[1], 1, 2],
      ],
    }),
    "/sequence_bias/1 must not have more than 2 items",
  );
  t.equal(fault({ sequence_bias: [[[1, null], 1]] }), "/sequence_bias/0/0/1 must be integer");
  t.equal(fault({ stop: Array.from({ length: 17 }, () => "a") }), "/stop must not have more than 16 items");
  for (const right of [
    { prompt: "a" },
    { prompts: [[1], "a", []] },
    { prompt: { a: [1] } },
    { nothing: ["x"] },
    { stop: "a", forced_eos_token_id: [1] },
  ])
    t.equal(fault(right), undefined);
  const body = {
    prompt: [1, 2],
    prompts: [[1, 2], "a"],
    bad_words: [[1, 2], "b"],
    sequence_bias: [[[3, 4], 0.5]],
    nothing: [1],
    n: 2,
  };
  t.same(withoutIntegers(GenerateBody, body), {
    prompt: [],
    prompts: [[], "a"],
    bad_words: [[1], "b"],
    sequence_bias: [[[3], 0.5]],
    nothing: [1],
    n: 2,
  });
  t.same(body.prompt, [1, 2], "a copy");
  t.end();
});

t.test("a long list of ids is accepted whole, or refused by its first fault", async (t) => {
  const { fastify, engine } = await buildTestApp(t);
  const ids = Array.from({ length: 60 }, (_, id) => id);
  t.equal((await fastify.inject(post("/generate", { prompt: ids, max_new_tokens: 1 }))).statusCode, 200);
  t.same([...engine.submitted[0]!.promptIds], ids);
  const detail = async (body: object): Promise<unknown> =>
    (await fastify.inject(post("/generate", body))).json<{ detail: string }>().detail;
  t.equal(await detail({ prompt: [...ids, -1] }), "prompt[60] must be >= 0; several prompts go into prompts.");
  t.match(await detail({ prompt: ids, nothing: 1 }), /There is no field "nothing"/);
  t.match(await detail({ prompt: Array.from({ length: 20_000 }, () => 1) }), /20000 tokens long/);
});
