import { quote } from "../formats/strict-json.ts";

/** An id on the hub, `org/name[@revision]`. */
const HUB_ID = /^([\w-][\w.-]*\/[\w.-]+)(?:@.*)?$/;
/** Of the hub's cache: `models--org--name/snapshots/COMMIT`. */
const CACHED = /(?:^|[/\\])models--([^/\\]+)/;

/** What a base model is called, by a folder's path or an id on the hub: that id, or the folder's name. null: the text says nothing. */
export function baseModelName(pathOrId: string): string | null {
  const id = CACHED.exec(pathOrId)?.[1]?.replaceAll("--", "/") ?? HUB_ID.exec(pathOrId)?.[1];
  if (id !== undefined) return id;
  const last = pathOrId.split(/[/\\]+/).findLast((part) => part !== "" && part !== ".");
  return last === undefined || last === ".." ? null : last;
}

/**
 * What is wrong when an adapter was trained on `named` (its base_model_name_or_path) and the model served here is called `served`, as a
 * sentence; null: nothing that names could tell. People keep models in folders of their own, so only the last part of a name counts, in
 * any case of letters.
 */
export function baseNameDiffers(named: string | null | undefined, served: string): string | null {
  const name = baseModelName(named ?? "");
  if (name === null || lastPart(name) === lastPart(served)) return null;
  return `The adapter was trained on ${quote(named ?? "")} (base_model_name_or_path); the base model served here is ${quote(served)}.`;
}

function lastPart(name: string): string {
  return name.slice(name.lastIndexOf("/") + 1).toLowerCase();
}
