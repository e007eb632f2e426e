/**
 * Compares the routes under /v1 in openapi.yaml with OpenAI's own description, and what is found with
 * differences.yaml, which says why. Fails where either has what the other has not.
 *
 *     npx tsx tools/openai-conformance/check.ts [DESCRIPTION] [--excerpt FROM]
 *
 * DESCRIPTION is a file, OpenAI's openapi.yaml or .json (https://github.com/openai/openai-openapi); without it, the
 * excerpt of one that stands here. --excerpt writes that anew: FROM says where the description is from.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { parse, stringify } from "yaml";
import { unexplained } from "./differences.ts";
import { excerptOf, operationsOf, readDescription, type Excerpt } from "./description.ts";

const HERE = new URL("./", import.meta.url).pathname;
const EXCERPT = `${HERE}openai-excerpt.yaml`;
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { excerpt: { type: "string" } },
});
const ours = operationsOf(readDescription(`${HERE}../../openapi.yaml`), "/v1/");
const [path] = positionals;
if (path !== undefined && values.excerpt !== undefined)
  writeFileSync(
    EXCERPT,
    stringify(excerptOf(readDescription(path), ours, values.excerpt), { lineWidth: 0, indent: 1 }),
  );
const excerpt: Excerpt =
  path === undefined
    ? (parse(readFileSync(EXCERPT, "utf8")) as Excerpt)
    : excerptOf(readDescription(path), ours, values.excerpt ?? path);
const problems = unexplained(excerpt, ours);
for (const problem of problems) console.error(problem);
console.log(
  problems.length === 0
    ? `the routes under /v1 are as in ${excerpt.from}, but for what differences.yaml says`
    : `${problems.length} differences`,
);
process.exitCode = problems.length === 0 ? 0 : 1;
