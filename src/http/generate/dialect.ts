/**
 * What an API calls the fields of a request. Requests of every API become a GenerateBody, and the errors about it speak
 * the sender's language.
 */
export interface Dialect {
  /** Begins the ids of requests. */
  readonly idPrefix: string;
  /** The sender's name of a GenerateBody's field. */
  readonly nameOf: (field: string) => string;
  /** How an error begins that names defaults. */
  readonly defaultsContribute: string;
}

export const OWN_DIALECT: Dialect = {
  idPrefix: "gen",
  nameOf: (field) => field,
  defaultsContribute: "The model's defaults contribute to this (generation_config.json)",
};
