import { ModelLoadError } from "../errors.ts";

/**
 * Readers for values of the tokenizer's files. `path` is where a value is, such as `tokenizer.json: normalizer.type`.
 */
export type Json = Readonly<Record<string, unknown>>;

export function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Throws ModelLoadError. */
export function object(value: unknown, path: string): Json {
  if (isObject(value)) return value;
  throw new ModelLoadError("model_invalid", `${path} is not a JSON object`);
}

/** Throws ModelLoadError. */
export function list(value: unknown, path: string): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw new ModelLoadError("model_invalid", `${path} is not a list`);
}

/** Throws ModelLoadError. */
export function text(value: unknown, path: string): string {
  if (typeof value === "string") return value;
  throw new ModelLoadError("model_invalid", `${path} is not a string`);
}

/** Returns `byDefault` if absent or null. Throws ModelLoadError. */
export function flag(value: unknown, path: string, byDefault: boolean): boolean {
  if (value === undefined || value === null) return byDefault;
  if (typeof value === "boolean") return value;
  throw new ModelLoadError("model_invalid", `${path} is neither true nor false`);
}

/** Throws ModelLoadError. */
export function tokenId(id: unknown, token: string): number {
  if (typeof id === "number" && Number.isInteger(id) && id >= 0) return id;
  throw new ModelLoadError(
    "model_invalid",
    `the tokenizer gives ${JSON.stringify(token)} the id ${JSON.stringify(id)}`,
  );
}

/** The error for a setting that would change ids and is not implemented: it stops the start. */
export function notHonoured(path: string, value: unknown): ModelLoadError {
  const shown = JSON.stringify(value) ?? "";
  return new ModelLoadError(
    "model_unsupported",
    `${path} ${shown.length > 80 ? `${shown.slice(0, 80)}...` : shown} is not supported`,
  );
}

/** An unknown key may change ids in unknown ways. Throws ModelLoadError. */
export function onlyKeys(json: Json, path: string, known: readonly string[]): void {
  const unknown = Object.keys(json).find((key) => !known.includes(key));
  if (unknown !== undefined) throw notHonoured(`${path}${unknown}`, json[unknown]);
}
