import { failInvalid } from "./errors.ts";

/**
 * The values of a pair of keywords such as minLength and maxLength.
 * @throws PrefixdError constraint_invalid
 */
export function countsOf(
  schema: Readonly<Record<string, unknown>>,
  [least, most]: readonly [string, string],
  pointer: string,
): { min: number; max: number } {
  for (const name of [least, most]) {
    const value = schema[name];
    if (value !== undefined && !(Number.isSafeInteger(value) && (value as number) >= 0))
      failInvalid(`${pointer}/${name}`, "must be a whole number of at least 0");
  }
  const { [least]: min = 0, [most]: max = Infinity } = schema as Record<string, number>;
  if (min > max) failInvalid(`${pointer}/${least}`, `is above ${most}`);
  return { min, max };
}
