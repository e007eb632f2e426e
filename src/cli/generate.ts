import { readFileSync } from "node:fs";
import type { Readable } from "node:stream";
import { text as readAll } from "node:stream/consumers";
import { ConfigError } from "../errors.ts";
import { fileTrouble } from "../file-trouble.ts";
import type { GenerateResponse } from "../http/generate/answer-schema.ts";
import type { GenerateBody } from "../http/generate/schema.ts";
import { CLIENT_OPTIONS, CLIENT_USAGE, onlyOperand, readArguments, userKey } from "./arguments.ts";
import { AnswerWriter, type Output } from "./answer-writer.ts";
import { CommandError } from "./command-error.ts";
import { callJson, streamEvents } from "./http-client.ts";

const USAGE = `Usage: prefixd generate PROMPT [--prefix ID]... [--base] [flags]

Sends a prompt and prints the answer as it arrives; with several prefixes, one answer below the other, all from one batch.
PROMPT - reads the prompt from standard input, without a final line break.

  --prefix ID            the prefix to use, or several; without any, the bare base model
  --base                 also the bare base model
  --max-new-tokens N     generate at most N tokens
  --min-new-tokens N     generate at least N tokens
  --stop TEXT            end before this text; repeatable
  --sample               sample instead of taking the likeliest tokens; the next five imply it
  --temperature T --top-k K --top-p P --min-p P --seed N
  --repetition-penalty R
  --num-beams N          beam search; the answer is printed when complete
  --choice TEXT          answer with one of these texts; repeatable
  --regex R              the whole answer matches this regular expression
  --json-schema FILE     answer with JSON that this schema allows
  --set FIELD=JSON       any other field of POST /generate; repeatable
${CLIENT_USAGE}`;

type Field = keyof GenerateBody;

/** Flags whose value is a number, with their field. */
const NUMBERS = {
  "max-new-tokens": "max_new_tokens",
  "min-new-tokens": "min_new_tokens",
  temperature: "temperature",
  "top-k": "top_k",
  "top-p": "top_p",
  "min-p": "min_p",
  seed: "seed",
  "repetition-penalty": "repetition_penalty",
  "num-beams": "num_beams",
} as const satisfies Record<string, Field>;
const SAMPLING: readonly (keyof typeof NUMBERS)[] = ["temperature", "top-k", "top-p", "min-p", "seed"];
/** Fields that the command itself sends. */
const OWN: readonly Field[] = ["prompt", "prompts", "prefix_id", "stream"];
/** Flags that say what form the answer has. */
const FORMS = ["choice", "regex", "json-schema"] as const;

const OPTIONS = {
  ...CLIENT_OPTIONS,
  prefix: { type: "string", multiple: true },
  base: { type: "boolean" },
  sample: { type: "boolean" },
  stop: { type: "string", multiple: true },
  set: { type: "string", multiple: true },
  choice: { type: "string", multiple: true },
  regex: { type: "string" },
  "json-schema": { type: "string" },
  ...(Object.fromEntries(Object.keys(NUMBERS).map((name) => [name, { type: "string" }])) as {
    [K in keyof typeof NUMBERS]: { type: "string" };
  }),
} as const;
type Values = ReturnType<typeof readArguments<typeof OPTIONS>>["values"];

/**
 * `prefixd generate`: one request a prefix, all sent at once. The first answer is printed as it comes, the others below
 * it in the order of the flags; with --json, one line with the server's JSON each. A request that fails is told on
 * stderr and does not end the others; then the exit code is 1.
 */
export async function generate(
  args: readonly string[],
  { stdin, stdout }: { readonly stdin: Readable; readonly stdout: Output } = process,
): Promise<void> {
  const { values, positionals } = readArguments("generate", args, OPTIONS, USAGE);
  if (values.help === true) return void stdout.write(USAGE);
  const operand = onlyOperand("generate", "prompt (in quotes)", positionals, USAGE);
  const parameters = parametersOf(values);
  const key = userKey(values["key-file"]);
  const prompt = operand === "-" ? (await readAll(stdin)).replace(/\r?\n$/, "") : operand;
  const prefixes: (string | null)[] = [...new Set(values.prefix)];
  if (prefixes.length === 0 || values.base === true) prefixes.push(null);
  const stream = values.json !== true && parameters.num_beams === undefined && parameters.best_of === undefined;
  const names = prefixes.map((prefix) => prefix ?? "(base)");
  const output = new AnswerWriter(names, stdout, values.json === true);
  const ask = async (prefix_id: string | null, index: number): Promise<void> => {
    const body = JSON.stringify({ ...parameters, prompt, prefix_id, stream });
    const init = { method: "POST", headers: { "content-type": "application/json" }, body };
    if (stream) {
      for await (const { choices } of streamEvents<GenerateResponse>(values.url, "/generate", init, key))
        for (const choice of choices) output.add(index, choice.index, choice.text);
      return;
    }
    const { text, value } = await callJson<GenerateResponse>(values.url, "/generate", init, key);
    if (values.json === true) output.add(index, 0, text);
    else for (const choice of value.choices) output.add(index, choice.index, choice.text);
  };
  const results = await Promise.allSettled(
    prefixes.map((prefix, index) => ask(prefix, index).finally(() => output.end(index))),
  );
  const failed = results.flatMap((result, i) =>
    result.status === "rejected" ? [{ name: names[i]!, error: result.reason as unknown }] : [],
  );
  if (failed.length > 0) throw failureOf(failed, names.length);
}

/** One error for all requests that failed; a reason common to all, such as a server that is not there, is told once. */
function failureOf(failed: readonly { readonly name: string; readonly error: unknown }[], requests: number): unknown {
  const strange = failed.find(({ error }) => !(error instanceof CommandError));
  if (strange !== undefined) return strange.error;
  const reasons = new Set(failed.map(({ error }) => (error as CommandError).message));
  if (failed.length === requests && reasons.size === 1) return failed[0]!.error;
  return new CommandError(failed.map(({ name, error }) => `${name}: ${(error as CommandError).message}`).join("\n"));
}

function formOf(
  { choice, regex, "json-schema": file }: Values,
  fail: (what: string) => never,
): GenerateBody["structured_outputs"] {
  if (choice !== undefined) return { choice };
  if (file === undefined) return { regex: regex! };
  let text = "";
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    fail(`--json-schema ${file}: ${fileTrouble(error)}`);
  }
  try {
    return { json: JSON.parse(text) as object };
  } catch (error) {
    return fail(`--json-schema ${file}: is not JSON (${(error as Error).message})`);
  }
}

/** The request's fields without prompt, prefix and stream. Throws ConfigError, which names the flag. */
function parametersOf(values: Values): Partial<Record<Field, unknown>> {
  const fail = (what: string): never => {
    throw new ConfigError(`generate: ${what}`, USAGE);
  };
  const body: Partial<Record<Field, unknown>> = {};
  for (const [flag, field] of Object.entries(NUMBERS) as [keyof typeof NUMBERS, Field][]) {
    const text = values[flag];
    if (text === undefined) continue;
    const value = text.trim() === "" ? NaN : Number(text);
    body[field] = Number.isFinite(value) ? value : fail(`--${flag} ${text}: expected a number`);
  }
  if (values.sample === true || SAMPLING.some((flag) => values[flag] !== undefined)) body.do_sample = true;
  if (values.stop !== undefined) body.stop = values.stop;
  const forms = FORMS.filter((flag) => values[flag] !== undefined);
  if (forms.length > 1) fail(`--${forms[1]}: not with --${forms[0]}; an answer has one form`);
  if (forms.length > 0) body.structured_outputs = formOf(values, fail);
  for (const setting of values.set ?? []) {
    const at = setting.indexOf("=");
    const name = setting.slice(0, Math.max(at, 0)) as Field;
    if (at <= 0) fail(`--set ${setting}: expected FIELD=JSON`);
    if (OWN.includes(name)) fail(`--set ${name}: not with this command`);
    try {
      body[name] = JSON.parse(setting.slice(at + 1));
    } catch {
      fail(`--set ${setting}: the value is not JSON; a text needs quotes: ${name}='"..."'`);
    }
  }
  return body;
}
