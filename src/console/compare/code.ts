/** One column's request as a program would send it. The key is read from a variable, never written. */
import type { GenerateBody, Settings } from "./settings.ts";

export const LANGUAGES = { curl: "curl", python: "Python", javascript: "JavaScript" } as const;
export type Language = keyof typeof LANGUAGES;

/** Where a program sends it to. */
export interface Place {
  readonly origin: string;
  /** Whether the server asks for a key. */
  readonly keyed: boolean;
  /** The base model's name, which stands for "no prefix" under /v1. */
  readonly base: string;
}

export function asCode(language: Language, body: GenerateBody, settings: Settings, place: Place): string {
  return language === "curl" ? asCurl(body, place) : asOpenAi(language, body, settings, place);
}

function asCurl(body: GenerateBody, { origin, keyed }: Place): string {
  const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
  return [
    `curl ${body["stream"] === true ? "-N " : ""}${quoted(`${origin}/generate`)}`,
    ...(keyed ? ['-H "authorization: Bearer $PREFIXD_KEY"'] : []),
    "-H 'content-type: application/json'",
    `-d ${quoted(JSON.stringify(body))}`,
  ].join(" \\\n  ");
}

/** Fields that OpenAI's completions have under another name, or not at all without harm. */
const TRANSLATED = [
  "prompt",
  "prefix_id",
  "max_new_tokens",
  "do_sample",
  "temperature",
  "logprobs",
  "timings",
  "stream",
  "return_token_ids",
];
/** Fields that are of /generate alone. */
const LACKED = ["no_repeat_ngram_size"];
/** Fields of OpenAI's own; all others are extensions. */
const THEIRS = ["top_p", "seed", "stop", "presence_penalty", "frequency_penalty"];

/** With OpenAI's client: what is left out defaults as OpenAI's API does, so that the temperature is always said. */
function asOpenAi(language: Exclude<Language, "curl">, body: GenerateBody, settings: Settings, place: Place): string {
  const { prompt, prefix_id: prefix = place.base } = body;
  const given = Object.entries(body).filter(([name, value]) => value !== undefined && !TRANSLATED.includes(name));
  const known = given.filter(([name]) => !LACKED.includes(name));
  const lacked = given.flatMap(([name]) => (LACKED.includes(name) ? `${name}: of POST /generate alone, left out` : []));
  const stream = body["stream"] === true;
  const draws = settings.how === "draw";
  const fields: [string, unknown][] = [
    ["model", prefix],
    ["prompt", prompt],
    ["max_tokens", body["max_new_tokens"]],
    ["temperature", draws ? (body["temperature"] ?? 1) : 0],
    ...known.filter(([name]) => THEIRS.includes(name)),
    ...(stream ? [["stream", true] as [string, unknown]] : []),
  ];
  const more: [string, unknown][] = known.filter(([name]) => !THEIRS.includes(name));
  // The default of /generate, where /v1 has none.
  if (draws && body["top_k"] === undefined) more.push(["top_k", 50]);
  const code =
    language === "python" ? python(fields, more, stream, place) : javaScript([...fields, ...more], stream, place);
  return [...lacked.map((what) => `${language === "python" ? "#" : "//"} ${what}`), code].join("\n");
}

type Fields = readonly (readonly [string, unknown])[];

function python(fields: Fields, more: Fields, stream: boolean, { origin, keyed }: Place): string {
  const lines = fields.map(([name, value]) => `    ${name}=${pythonic(value)},`);
  if (more.length > 0)
    lines.push(`    extra_body={${more.map(([name, value]) => `"${name}": ${pythonic(value)}`).join(", ")}},`);
  return [
    ...(keyed ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${origin}/v1", api_key=${keyed ? 'os.environ["PREFIXD_KEY"]' : '"none"'})`,
    `answer = client.completions.create(`,
    ...lines,
    ")",
    ...(stream
      ? ["for event in answer:", '    print(event.choices[0].text, end="", flush=True)']
      : ["print(answer.choices[0].text)"]),
  ].join("\n");
}

/** JSON is Python, except for three words; texts that hold them stay as they are. */
function pythonic(value: unknown): string {
  return JSON.stringify(value).replaceAll(/"(?:[^"\\]|\\.)*"|true|false|null/g, (word) =>
    word.startsWith('"') ? word : { true: "True", false: "False", null: "None" }[word]!,
  );
}

function javaScript(fields: Fields, stream: boolean, { origin, keyed }: Place): string {
  return [
    'import OpenAI from "openai";',
    "",
    `const client = new OpenAI({ baseURL: "${origin}/v1", apiKey: ${keyed ? "process.env.PREFIXD_KEY" : '"none"'} });`,
    "const answer = await client.completions.create({",
    ...fields.map(([name, value]) => `  ${name}: ${JSON.stringify(value)},`),
    "});",
    stream
      ? "for await (const { choices } of answer) process.stdout.write(choices[0].text);"
      : "console.log(answer.choices[0].text);",
  ].join("\n");
}
