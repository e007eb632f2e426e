import { printable } from "../one-line.ts";

/**
 * A correctly used command failed: the server refused or did not answer, or a file is in the way. `message` is for the
 * user.
 */
export class CommandError extends Error {
  override readonly name = "CommandError";

  constructor(message: string) {
    super(printable(message));
  }
}
