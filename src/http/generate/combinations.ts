import { PrefixdError } from "../../errors.ts";
import { DEFAULT_NEW_TOKENS } from "../../generation/service.ts";
import { OWN_DIALECT } from "./dialect.ts";
import type { GenerateBody } from "./schema.ts";
import type { GenerationDefaults } from "./defaults-schema.ts";

/** A body with the model's defaults filled in. */
export type GenerateFields = GenerateBody & Pick<GenerationDefaults, "max_length" | "min_length">;

/** Why a request is refused: an error that begins with `field`'s name, and the fields whose defaults may cause it. */
type Refusal = readonly [
  applies: boolean,
  field: keyof GenerateFields,
  why: string,
  causes: readonly (keyof GenerateFields)[],
];

/**
 * Fills absent fields from the model's defaults. A default is dropped where it cannot apply: all of them if nothing is
 * generated; those on EOS if EOS is ignored; `sequence_bias` if there is a `logit_bias`, since transformers treats both
 * as one.
 */
export function withDefaults(body: GenerateBody, defaults: GenerationDefaults): GenerateFields {
  if (body.max_new_tokens === 0) return body;
  const { max_length, min_length, sequence_bias, exponential_decay_length_penalty, ...others } = defaults;
  return {
    ...others,
    ...(max_length !== undefined && body.max_new_tokens === undefined ? { max_length } : {}),
    ...(min_length !== undefined && body.min_new_tokens === undefined ? { min_length } : {}),
    ...(sequence_bias !== undefined && body.logit_bias === undefined ? { sequence_bias } : {}),
    ...(exponential_decay_length_penalty !== undefined && body.ignore_eos !== true
      ? { exponential_decay_length_penalty }
      : {}),
    ...body,
  };
}

/** Whether tokens are drawn: a temperature of 0 leaves only the likeliest one. */
export const isSampled = ({ do_sample = false, temperature = 1 }: GenerateFields): boolean =>
  do_sample && temperature > 0;

/**
 * Checks fields against each other, both the body's and the defaults; the error names defaults that contribute.
 * @param maxN maximum rows per prompt
 * @throws PrefixdError invalid_parameter
 */
export function checkCombinations(
  body: GenerateBody,
  defaults: GenerationDefaults,
  maxN: number,
  dialect = OWN_DIALECT,
): void {
  const fields = withDefaults(body, defaults);
  const {
    n = 1,
    best_of: bestOf = n,
    num_beams: numBeams = 1,
    stream = false,
    max_new_tokens: maxNew = DEFAULT_NEW_TOKENS,
  } = fields;
  const beams = numBeams > 1;
  const sampled = isSampled(fields);
  const needsSampling = `needs ${fields.do_sample ? "a temperature above 0" : "do_sample true"}: without it all choices are the same`;
  const refused: Refusal[] = [
    [n > maxN, "n", `must be <= ${maxN} on this server`, ["n"]],
    [bestOf > maxN, "best_of", `must be <= ${maxN} on this server`, []],
    [numBeams > maxN, "num_beams", `must be <= ${maxN} on this server`, ["num_beams"]],
    [
      beams && n > numBeams,
      "n",
      "must be <= num_beams: a beam search returns at most num_beams results",
      ["n", "num_beams"],
    ],
    [
      beams && bestOf > n,
      "best_of",
      "cannot be used with num_beams > 1, which already returns the best",
      ["num_beams", "n"],
    ],
    [beams && stream, "num_beams", "> 1 cannot be streamed: the first tokens are only known at the end", ["num_beams"]],
    [!beams && n > 1 && !sampled, "n", `> 1 ${needsSampling}`, ["n"]],
    [bestOf < n, "best_of", "must be >= n", ["n"]],
    [bestOf > n && !sampled && !beams, "best_of", needsSampling, []],
    [bestOf > n && stream, "best_of", "cannot be streamed: the best choices are only known at the end", []],
    [maxNew === 0 && !(fields.echo ?? false), "max_new_tokens", "must be >= 1; 0 only with echo", []],
    [
      maxNew === 0 && (beams || bestOf > n),
      "max_new_tokens",
      "0 leaves nothing for num_beams or best_of to choose from",
      [],
    ],
    // A default beyond what the request allows is not the request's mistake, and what max_length leaves depends on the
    // prompt.
    [
      (body.min_new_tokens ?? 0) > maxNew && fields.max_length === undefined,
      "min_new_tokens",
      `must be <= ${dialect.nameOf("max_new_tokens")}`,
      ["max_new_tokens"],
    ],
    [
      fields.exponential_decay_length_penalty !== undefined && (fields.ignore_eos ?? false),
      "exponential_decay_length_penalty",
      "changes the logit of EOS, which ignore_eos ignores",
      [],
    ],
  ];
  for (const name of ["forced_bos_token_id", "forced_eos_token_id"] as const) {
    const forced = fields[name] === undefined ? [] : [fields[name]].flat();
    refused.push([
      forced.length > 0 && forced.every((id) => fields.suppress_tokens?.includes(id) ?? false),
      name,
      "forces what suppress_tokens forbids",
      [name, "suppress_tokens"],
    ]);
    refused.push([
      forced.length > 0 && fields.structured_outputs !== undefined,
      name,
      "cannot be used with structured_outputs, which may not allow what it forces",
      [name],
    ]);
  }
  const first = refused.find(([applies]) => applies);
  if (first === undefined) return;
  const [, field, why, causes] = first;
  const defaulted = causes
    .filter((name) => !Object.hasOwn(body, name) && Object.hasOwn(defaults, name))
    .map((name) => `${dialect.nameOf(name)} ${JSON.stringify(fields[name]).slice(0, 60)}`);
  const source =
    defaulted.length === 0 ? "" : ` ${dialect.defaultsContribute}: ${defaulted.join(", ")}; send other values.`;
  const name = dialect.nameOf(field);
  throw new PrefixdError("invalid_parameter", `${name} ${why}.${source}`, { field: name });
}
