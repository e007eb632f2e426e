/** A model's id on the Hugging Face hub. */
export interface HubId {
  /** `org/name` */
  readonly name: string;
  /** A branch, tag or commit; null: none is given. */
  readonly revision: string | null;
}

/** Parses `org/name[@revision]`; null if the text has another form, as paths that begin with a slash or a dot have. */
export function parseHubId(text: string): HubId | null {
  const match = /^([\w-][\w.-]*\/[\w.-]+)(?:@([\w./-]+))?$/.exec(text);
  return match === null || text.includes("..") ? null : { name: match[1]!, revision: match[2] ?? null };
}
