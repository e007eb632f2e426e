import { parseHubId } from "../formats/hub-id.ts";
import { quote } from "../formats/strict-json.ts";

/** A path in the hub's cache: `models--org--name/snapshots/COMMIT`. */
const CACHED = /(?:^|[/\\])models--([^/\\]+)/;

/** A base model's name from a folder's path or a hub id: the id, or the folder's name. null if the text has neither. */
export function baseModelName(pathOrId: string): string | null {
  const id = CACHED.exec(pathOrId)?.[1]?.replaceAll("--", "/") ?? parseHubId(pathOrId)?.name;
  if (id !== undefined) return id;
  const last = pathOrId.split(/[/\\]+/).findLast((part) => part !== "" && part !== ".");
  return last === undefined || last === ".." ? null : last;
}

/**
 * Compares the model an adapter was trained on (`named`, its base_model_name_or_path) with the one served: a sentence
 * on the difference, or null if the names do not tell. People keep models in their own folders, so only the last part
 * of a name counts, case-insensitively.
 */
export function baseNameDiffers(named: string | null | undefined, served: string): string | null {
  const name = baseModelName(named ?? "");
  if (name === null || lastPart(name) === lastPart(served)) return null;
  return `The adapter was trained on ${quote(named ?? "")} (base_model_name_or_path); the base model served here is ${quote(served)}.`;
}

function lastPart(name: string): string {
  return name.slice(name.lastIndexOf("/") + 1).toLowerCase();
}
