/** Escapes line ends and other control characters of an untrusted text, so that it fits one line of a terminal. */
export function oneLine(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** The same for a text that may have several lines. */
export function printable(text: string): string {
  return text.split("\n").map(oneLine).join("\n");
}
