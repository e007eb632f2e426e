/** Two descriptions of an API, operation by operation: what a client of theirs would find different at ours. */
import type { Shape } from "./shape.ts";

export interface Operation {
  readonly query: Shape;
  readonly request: Shape | null;
  /** By media type, of the answer that says it went well. */
  readonly response: ReadonlyMap<string, Shape>;
}

/** By "POST /files/{}/content": parameters of a path have no names here. */
export type Operations = ReadonlyMap<string, Operation>;

/** Where, what, and about which field or value. */
export interface Difference {
  readonly at: string;
  readonly what: What;
  readonly name: string;
}

export type What =
  /** Theirs, and ours does not have it. */
  | "left out"
  /** Ours alone. */
  | "added"
  /** A field that only one side requires. */
  | "required here"
  | "optional here"
  /** A type, a text or a range that only one side takes, or gives. */
  | "not taken"
  | "also taken"
  | "also given";

export function compareOperations(theirs: Operations, ours: Operations): Difference[] {
  const found: Difference[] = [];
  for (const [route, mine] of ours) {
    const other = theirs.get(route);
    if (other === undefined) {
      found.push({ at: "routes", what: "added", name: route });
      continue;
    }
    const tell = (at: string) => (what: What, name: string) => void found.push({ at: `${route} ${at}`, what, name });
    compareRequests(other.query, mine.query, tell("query"));
    if (mine.request !== null && other.request !== null) compareRequests(other.request, mine.request, tell("request"));
    for (const [media, shape] of mine.response) {
      // Their completions tell of a stream only in words: its events have the answer's shape.
      const expected = other.response.get(media) ?? (media === "text/event-stream" ? json(other) : undefined);
      if (expected === undefined) tell("answer")("added", media);
      else compareAnswers(expected, shape, tell(media === "text/event-stream" ? "event" : "answer"));
    }
    for (const media of other.response.keys()) if (!mine.response.has(media)) tell("answer")("left out", media);
  }
  return found;
}

const json = ({ response }: Operation): Shape | undefined => response.get("application/json");

type Tell = (what: What, name: string) => void;
const inner = (path: string, name: string): string => (path === "" ? name : `${path}.${name}`);
const shown = (path: string, what: string): string => (path === "" ? what : `${path}: ${what}`);

/** null in a request means the same as nothing, whatever either side says of it. */
function compareRequests(theirs: Shape, ours: Shape, tell: Tell, path = ""): void {
  if (theirs.types.size === 0 || ours.types.size === 0) return;
  for (const type of theirs.types) if (!takes(ours, type) && type !== "null") tell("not taken", shown(path, type));
  for (const type of ours.types) if (!takes(theirs, type) && type !== "null") tell("also taken", shown(path, type));
  const strings = theirs.types.has("string") && ours.types.has("string");
  if (strings && ours.texts !== null)
    for (const text of theirs.texts ?? ["any string"])
      if (!ours.texts.has(text)) tell("not taken", shown(path, JSON.stringify(text)));
  if (strings && theirs.texts !== null)
    for (const text of ours.texts ?? ["any string"])
      if (!theirs.texts.has(text)) tell("also taken", shown(path, JSON.stringify(text)));
  if (ours.minimum > theirs.minimum) tell("not taken", shown(path, `under ${ours.minimum}`));
  if (ours.maximum < theirs.maximum) tell("not taken", shown(path, `over ${ours.maximum}`));
  for (const [name, shape] of theirs.properties) {
    const mine = ours.properties.get(name);
    if (mine === undefined) tell("left out", inner(path, name));
    else compareRequests(shape, mine, tell, inner(path, name));
  }
  for (const name of ours.properties.keys()) if (!theirs.properties.has(name)) tell("added", inner(path, name));
  for (const name of ours.required) if (!theirs.required.has(name)) tell("required here", inner(path, name));
  for (const name of theirs.required)
    if (ours.properties.has(name) && !ours.required.has(name)) tell("optional here", inner(path, name));
  if (theirs.items !== null && ours.items !== null) compareRequests(theirs.items, ours.items, tell, `${path}[]`);
}

function compareAnswers(theirs: Shape, ours: Shape, tell: Tell, path = ""): void {
  if (theirs.types.size === 0) return;
  if (ours.types.size === 0) return tell("also given", shown(path, "anything"));
  for (const type of ours.types) if (!takes(theirs, type)) tell("also given", shown(path, type));
  if (theirs.texts !== null && ours.types.has("string"))
    for (const text of ours.texts ?? ["any string"])
      if (!theirs.texts.has(text)) tell("also given", shown(path, JSON.stringify(text)));
  for (const [name, shape] of theirs.properties) {
    const mine = ours.properties.get(name);
    if (mine === undefined) tell("left out", `${inner(path, name)}${theirs.required.has(name) ? " (required)" : ""}`);
    else {
      if (theirs.required.has(name) && !ours.required.has(name)) tell("optional here", inner(path, name));
      compareAnswers(shape, mine, tell, inner(path, name));
    }
  }
  for (const name of ours.properties.keys()) if (!theirs.properties.has(name)) tell("added", inner(path, name));
  if (theirs.items !== null && ours.items !== null) compareAnswers(theirs.items, ours.items, tell, `${path}[]`);
}

const takes = ({ types }: Shape, type: string): boolean =>
  types.has(type) || (type === "integer" && types.has("number"));
