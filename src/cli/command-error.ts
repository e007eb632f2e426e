import { printable } from "../one-line.ts";

/** A command that was called rightly and failed: the server refused or does not answer, or a file is in the way. `message` is all that its user needs. */
export class CommandError extends Error {
  override readonly name = "CommandError";

  constructor(message: string) {
    super(printable(message));
  }
}
