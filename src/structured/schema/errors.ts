import { invalid, unsupported } from "../limits.ts";

/** A step down in a JSON pointer. */
export const escaped = (name: string): string => name.replaceAll("~", "~0").replaceAll("/", "~1");

const at = (pointer: string): string =>
  pointer === "" ? "At the root of the schema" : `At ${shortened(pointer)} of the schema`;
const shortened = (pointer: string): string => (pointer.length > 200 ? `${pointer.slice(0, 200)}...` : pointer);

/** @throws PrefixdError constraint_invalid */
export function failInvalid(pointer: string, why: string): never {
  throw invalid(`${at(pointer)}: ${why}.`);
}

/** @throws PrefixdError constraint_unsupported */
export function failUnsupported(pointer: string, why: string): never {
  throw unsupported(`${at(pointer)}: ${why}.`);
}
