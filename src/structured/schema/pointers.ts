import { failInvalid, failUnsupported } from "./errors.ts";

/** A part of a schema, with its canonical JSON pointer. */
export interface Place {
  readonly schema: unknown;
  readonly pointer: string;
}

/**
 * What a `$ref` points to.
 * @param pointer of the `$ref`, for the error
 * @throws PrefixdError constraint_invalid, constraint_unsupported
 */
export function resolve(root: unknown, ref: unknown, pointer: string): Place {
  if (typeof ref !== "string") failInvalid(pointer, "must be a text");
  if (!/^#(\/|$)/.test(ref)) failUnsupported(pointer, "must point into this schema, as in #/$defs/name");
  const target = decoded(ref.slice(1), pointer);
  let at = root;
  for (const part of target.split("/").slice(1)) {
    const name = part.replaceAll("~1", "/").replaceAll("~0", "~");
    if (typeof at !== "object" || at === null || !Object.hasOwn(at, name))
      failInvalid(pointer, `${JSON.stringify(ref.slice(0, 100))} is not there`);
    at = (at as Record<string, unknown>)[name];
  }
  return { schema: at, pointer: target };
}

function decoded(text: string, pointer: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return failInvalid(pointer, "is not percent-encoded as a URI");
  }
}
