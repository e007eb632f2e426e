import type { ChunkPlan } from "./chunks.ts";
import { sharingOf } from "../prefixes/sharing.ts";
import type { PrefixMeta, VersionChange, Visibility } from "../prefixes/store.ts";
import { asCurrent, versionNotFound, versionsToKeep } from "../prefixes/versions.ts";

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

/** Parses the value of a prefix's earlier versions, the one replaced last first. */
export function parseVersions(value: string | null): Entry[] {
  return value === null ? [] : value.split("\n").map((line) => JSON.parse(line) as Entry);
}

/**
 * What putting back a version makes of a prefix's value and its versions: the line of the new current entry, and of the
 * versions kept and no longer kept. Throws `version_not_found`.
 */
export function swapVersions(
  value: string,
  versions: string | null,
  change: VersionChange,
): { current: string; kept: string[]; gone: string[] } {
  const line = value.split("\n", 1)[0]!;
  const read = (text: string): { line: string; entry: Entry; digest: string; bytes: number } => {
    const entry = JSON.parse(text) as Entry;
    return { line: text, entry, digest: entry.meta.digest, bytes: entry.meta.bytes };
  };
  const [replaced, earlier] = [read(line), versions === null ? [] : versions.split("\n").map(read)];
  const found = earlier.find(({ digest }) => digest === change.digest);
  if (found === undefined) throw versionNotFound();
  const current = { ...found.entry, meta: asCurrent(found.entry.meta, replaced.entry.meta, change) };
  const rest = earlier.filter((version) => version !== found);
  const kept = versionsToKeep(replaced, rest, { ...change, room: Infinity });
  const gone = [replaced, ...rest].filter((version) => !kept.includes(version));
  const lines = (some: readonly { line: string }[]): string[] => some.map(({ line }) => line);
  return { current: JSON.stringify(current), kept: lines(kept), gone: lines(gone) };
}
