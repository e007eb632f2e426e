import { PrefixdError } from "../../errors.ts";
import type { ValidGenerateRequest } from "../../generation/service.ts";
import type { PrefixKey } from "../../prefixes/store.ts";
import type { Dialect } from "../generate/dialect.ts";
import { parseGenerate, type ResponseOptions } from "../generate/parse.ts";
import type { PromptReader } from "../generate/prompts.ts";
import { NOT_OFFERED } from "../generate/foreign-fields.ts";
import type { GenerateBody } from "../generate/schema.ts";
import type { GenerationDefaults } from "../generate/defaults-schema.ts";
import { DEFAULT_MAX_TOKENS, type CompletionsBody } from "./completions-schema.ts";

/** What `/generate` calls these fields; it has all others under the same name. */
export const OUR_NAMES: Readonly<Record<string, string>> = {
  max_tokens: "max_new_tokens",
  min_tokens: "min_new_tokens",
};
const THEIR_NAMES: Readonly<Record<string, string>> = {
  ...Object.fromEntries(Object.entries(OUR_NAMES).map(([theirs, ours]) => [ours, theirs])),
  prompts: "prompt",
};

/** OpenAI's names, and vLLM's for what OpenAI lacks. */
export const OPENAI_DIALECT: Dialect = {
  idPrefix: "cmpl",
  nameOf: (field) => THEIR_NAMES[field] ?? field,
  defaultsContribute: "A default contributes to this",
};

const DEFAULTS: GenerationDefaults = { max_new_tokens: DEFAULT_MAX_TOKENS };

export interface CompletionsContext {
  readonly user: string;
  /** What `model` names; null: the bare base model. */
  readonly prefix: PrefixKey | null;
  readonly reader: PromptReader;
  /** Maximum rows per prompt. */
  readonly maxN: number;
}

/** Parses a body that fits its schema, as the same request to `/generate`. Throws what `parseGenerate` throws. */
export function parseCompletions(
  body: CompletionsBody,
  context: CompletionsContext,
): Promise<{ request: ValidGenerateRequest; response: ResponseOptions }> {
  if (body.suffix !== undefined)
    throw new PrefixdError("unsupported_parameter", `"suffix" is not supported: ${NOT_OFFERED["suffix"]}.`, {
      field: "suffix",
    });
  checkStreamOptions(body);
  return parseGenerate(asGenerateBody(body), { ...context, defaults: DEFAULTS, dialect: OPENAI_DIALECT });
}

/** @throws PrefixdError invalid_parameter */
export function checkStreamOptions({
  stream_options,
  stream,
}: Pick<CompletionsBody, "stream_options" | "stream">): void {
  if (stream_options !== undefined && stream !== true)
    throw new PrefixdError("invalid_parameter", "stream_options needs stream true.", { field: "stream_options" });
}

/** Fields that say nothing about what is generated. */
const OTHERS: ReadonlySet<string> = new Set(["model", "stream_options", "user", "store", "metadata"]);

/** The same request in `/generate`'s fields. */
function asGenerateBody({ prompt, ...others }: CompletionsBody): GenerateBody {
  return { ...inOurFields(others), ...(isOnePrompt(prompt) ? { prompt } : { prompts: prompt }) };
}

/** What OpenAI's routes have in common, in `/generate`'s fields. */
export function inOurFields(body: Omit<CompletionsBody, "prompt">): GenerateBody {
  const fields = Object.entries(body).filter(([name]) => !OTHERS.has(name));
  const { num_beams: beams = 1, top_k: topK = 0, return_token_ids: returnTokenIds = false } = body;
  return {
    ...(Object.fromEntries(fields.map(([name, value]) => [OUR_NAMES[name] ?? name, value])) as GenerateBody),
    do_sample: beams === 1,
    top_k: Math.max(0, topK),
    return_token_ids: returnTokenIds,
  };
}

/** The schema does not mix numbers with prompts. */
const isOnePrompt = (prompt: CompletionsBody["prompt"]): prompt is string | number[] =>
  typeof prompt === "string" || prompt.length === 0 || typeof prompt[0] === "number";
