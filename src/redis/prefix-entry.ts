import type { ChunkPlan } from "./chunks.ts";
import { sharingOf } from "../prefixes/sharing.ts";
import type { PrefixMeta, Visibility } from "../prefixes/store.ts";

/** The pointer to the current version of a prefix. */
export interface Entry extends ChunkPlan {
  readonly meta: PrefixMeta;
}

/** An entry's value: its JSON and, once it has been shared, a line each for the visibility, who may use it, and who may read it. Lists do without the last two. */
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
