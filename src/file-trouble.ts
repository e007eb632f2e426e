const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file or folder",
  EISDIR: "it is a folder",
  ENOTDIR: "it is not a folder",
  EACCES: "permission denied",
  EPERM: "permission denied",
};

/** Why a file could not be read as JSON: the system's reason, or the parser's. */
export const jsonTrouble = (error: unknown): string =>
  error instanceof SyntaxError ? error.message : fileTrouble(error);

/** Why a file or folder cannot be used, from what Node threw, as the end of a line that names it. */
export function fileTrouble(error: unknown): string {
  const code = error instanceof Error && "code" in error ? String(error.code) : "error";
  return REASONS[code] ?? `it cannot be used (${code})`;
}
