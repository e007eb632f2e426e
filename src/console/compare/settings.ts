/** Settings of a comparison, and the request that they make. */
export interface Settings {
  /** As typed. */
  readonly newTokens: string;
  readonly how: "greedy" | "draw" | "beams";
  readonly beams: string;
  readonly temperature: string;
  readonly topP: string;
  readonly topK: string;
  readonly seed: string;
  readonly form: "free" | "choice" | "json" | "regex";
  readonly choices: string;
  readonly schema: string;
  readonly regex: string;
  readonly repetition: string;
  readonly presence: string;
  readonly frequency: string;
  readonly ngram: string;
  readonly stop: string;
}

export const DEFAULTS: Settings = {
  newTokens: "64",
  how: "greedy",
  beams: "4",
  temperature: "0.8",
  topP: "0.95",
  topK: "50",
  seed: "",
  form: "free",
  choices: "book flight\nflight status\ncancel reservation",
  schema: '{ "type": "string" }',
  regex: "[0-9]{4}-[0-9]{2}-[0-9]{2}",
  repetition: "1",
  presence: "0",
  frequency: "0",
  ngram: "0",
  stop: "",
};

/** Likeliest tokens asked for with each token. */
export const ALTERNATIVES = 5;

/** The fields that differ from the API's own defaults. Throws a SyntaxError for a schema that is not JSON. */
export function settingsBody(settings: Settings): Record<string, unknown> {
  const { how, form } = settings;
  const draws = how === "draw";
  const unless = (value: string, standard: string): number | undefined =>
    value.trim() === "" || value === standard ? undefined : Number(value);
  return {
    max_new_tokens: Number(settings.newTokens),
    num_beams: how === "beams" ? Number(settings.beams) : undefined,
    do_sample: draws ? true : undefined,
    temperature: draws ? unless(settings.temperature, "1") : undefined,
    top_p: draws ? unless(settings.topP, "1") : undefined,
    top_k: draws ? unless(settings.topK, "50") : undefined,
    seed: draws ? unless(settings.seed, "") : undefined,
    repetition_penalty: unless(settings.repetition, "1"),
    presence_penalty: unless(settings.presence, "0"),
    frequency_penalty: unless(settings.frequency, "0"),
    no_repeat_ngram_size: unless(settings.ngram, "0"),
    stop: settings.stop === "" ? undefined : [settings.stop],
    structured_outputs:
      form === "choice"
        ? { choice: settings.choices.split("\n").filter((line) => line !== "") }
        : form === "json"
          ? { json: JSON.parse(settings.schema) as unknown }
          : form === "regex"
            ? { regex: settings.regex }
            : undefined,
  };
}

/** What is set, in a few words. */
export function summary({ how, beams, temperature, newTokens, form }: Settings): string {
  const answers = {
    free: "free text",
    choice: "one of some texts",
    json: "JSON of a schema",
    regex: "matches a regex",
  };
  return [
    { greedy: "likeliest token", draw: `drawn at temperature ${temperature}`, beams: `${beams} beams` }[how],
    `at most ${newTokens} new`,
    answers[form],
  ].join(" · ");
}

export interface GenerateBody {
  readonly prompt: string;
  readonly prefix_id?: string;
  readonly [field: string]: unknown;
}

/** The body of `POST /generate` for one column; null: the base model. Throws as `settingsBody`. */
export function requestBody(prompt: string, prefix: string | null, settings: Settings): GenerateBody {
  return {
    prompt,
    ...(prefix === null ? {} : { prefix_id: prefix }),
    ...settingsBody(settings),
    logprobs: ALTERNATIVES,
    timings: true,
    // The first tokens of a beam search are only known at the end. A stream has the ids by itself.
    ...(settings.how === "beams" ? { return_token_ids: true } : { stream: true }),
  };
}
