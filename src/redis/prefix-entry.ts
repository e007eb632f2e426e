import type { ChunkPlan } from "./chunks.ts";
import { sharingOf } from "../prefixes/sharing.ts";
import type { PrefixMeta, Visibility } from "../prefixes/store.ts";

/** The pointer to a prefix's current version. */
export interface Entry extends ChunkPlan {
  readonly meta: PrefixMeta;
}

/**
 * Parses an entry's value: its JSON and, once shared, one line each for visibility, users who may use it, and users who
 * may read it. Lists omit the last two.
 */
export function parseEntry(value: string): Entry {
  const [json = "", visibility = "", shared = "", readable = ""] = value.split("\n");
  const entry = JSON.parse(json) as Entry;
  const sharing = sharingOf({
    ...(visibility === "" ? {} : { visibility: visibility as Visibility }),
    ...(shared === "" ? {} : { shared_with: JSON.parse(shared) as string[] }),
    ...(readable === "" ? {} : { readable_by: JSON.parse(readable) as string[] }),
  });
  return { ...entry, meta: { ...entry.meta, ...sharing } };
}
