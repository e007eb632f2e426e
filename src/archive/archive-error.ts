/** An export that is damaged, cut off or not one. `message` names the place; it is for the operator. */
export class ArchiveError extends Error {
  override readonly name = "ArchiveError";
}
