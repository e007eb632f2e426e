/** openapi.yaml beside OpenAI's own description: what differs has a reason, and a comparison that sees differences. */
import { readFileSync } from "node:fs";
import t from "tap";
import { parse } from "yaml";
import { compareOperations } from "../../../tools/openai-conformance/compare.ts";
import {
  excerptOf,
  operationsOf,
  readDescription,
  type Description,
  type Excerpt,
} from "../../../tools/openai-conformance/description.ts";
import { unexplained } from "../../../tools/openai-conformance/differences.ts";
import type { Schema } from "../../../tools/openai-conformance/shape.ts";
import { repositoryFile } from "../../support/docs-block.ts";

const excerpt = parse(readFileSync(repositoryFile("tools/openai-conformance/openai-excerpt.yaml"), "utf8")) as Excerpt;
const description = readDescription(repositoryFile("openapi.yaml"));
const ours = operationsOf(description, "/v1/");

t.test("every difference from OpenAI's description has a reason, and every reason a difference", async (t) => {
  t.ok(ours.size >= 15, `${ours.size} operations`);
  t.same(unexplained(excerpt, ours), []);
});

t.test("a difference that has none is found", async (t) => {
  /** The description after a change of one schema. */
  const after = (name: string, change: (schema: { -readonly [K in keyof Schema]: Schema[K] }) => void): string[] => {
    const copy = structuredClone(description);
    change(copy.components!.schemas![name]!);
    return unexplained(excerpt, operationsOf(copy, "/v1/"));
  };
  const deleted = "DELETE /files/{} answer";
  t.same(
    after("DeletedFile", (schema) => (schema.required = ["id", "object"])),
    [`not explained: ${deleted} | optional here | deleted`],
  );
  t.same(
    after("DeletedFile", ({ properties }) => delete (properties as Record<string, Schema>)["deleted"]),
    [`not explained: ${deleted} | left out | deleted (required)`],
  );
  const set = (name: string, to: Schema) => (schema: Schema) =>
    void ((schema.properties as Record<string, Schema>)[name] = to);
  t.same(after("DeletedFile", set("deleted", { type: ["boolean", "null"] })), [
    `not explained: ${deleted} | also given | deleted: null`,
  ]);
  t.same(after("DeletedFile", set("object", { type: "string" })), [
    `not explained: ${deleted} | also given | object: "any string"`,
  ]);
  t.same(after("DeletedFile", set("when", { type: "integer" })), [`not explained: ${deleted} | added | when`]);
  const request = "POST /completions request";
  t.same(after("CompletionsRequest", set("suffix", { type: "integer" })), [
    `not explained: ${request} | not taken | suffix: string`,
    `not explained: ${request} | also taken | suffix: integer`,
  ]);
  t.same(after("CompletionsRequest", set("n", { type: "integer", minimum: 1, maximum: 4 })), [
    `not explained: ${request} | not taken | n: over 4`,
  ]);
  t.same(
    after("CompletionsRequest", (schema) => (schema.required = ["model"])),
    [`not explained: ${request} | optional here | prompt`],
  );
  t.same(
    after("CompletionsRequest", ({ properties }) => delete (properties as Record<string, Schema>)["top_k"]),
    [`no longer so: ${request} | added | top_k`],
  );
  const { "/v1/files": files, ...paths } = description.paths;
  t.match(unexplained(excerpt, operationsOf({ ...description, paths: { ...paths, "/v1/new": files! } }, "/v1/")), [
    "not explained: routes | added | POST /new",
  ]);
});

t.test("an excerpt says what the whole description says", async (t) => {
  const file: Description = {
    paths: {
      "/things/{thing_id}": {
        get: {
          parameters: [{ name: "limit", in: "query", schema: { $ref: "#/components/schemas/Limit" } }],
          responses: { 200: { content: { "application/json": { schema: { $ref: "#/components/schemas/Thing" } } } } },
        },
      },
      "/others": { get: {} },
    },
    components: {
      schemas: {
        Limit: { type: "integer", minimum: 1 },
        Thing: {
          allOf: [
            { type: "object", properties: { id: { type: "string" } }, required: ["id"] },
            {
              properties: {
                kind: { oneOf: [{ enum: ["a"] }, { const: "b" }] },
                deep: { $ref: "#/components/schemas/Thing" },
              },
            },
          ],
        },
      },
    },
  };
  const mine: Description = {
    paths: {
      "/v1/things/{id}": {
        get: {
          parameters: [{ name: "limit", in: "query", schema: { type: "integer", minimum: 5 } }],
          responses: {
            200: {
              content: {
                "application/json": {
                  schema: {
                    type: "object",
                    properties: { id: { type: "integer" }, kind: { enum: ["b", "c"] } },
                    required: ["id"],
                  },
                },
              },
            },
          },
        },
      },
    },
  };
  const operations = operationsOf(mine, "/v1/");
  const small = excerptOf(file, operations, "here");
  t.same(small.others, ["/others"]);
  const found = compareOperations(operationsOf(small), operations);
  t.same(found, compareOperations(operationsOf(file), operations));
  t.same(
    found.map(({ at, what, name }) => `${at} ${what} ${name}`),
    [
      "GET /things/{} query not taken limit: under 5",
      "GET /things/{} answer also given id: integer",
      'GET /things/{} answer also given kind: "c"',
      "GET /things/{} answer left out deep",
    ],
  );
});
