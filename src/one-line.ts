/** A text from outside on one line of a terminal: line ends and other control characters as escapes. */
export function oneLine(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** The same of a text that may have several lines. */
export function printable(text: string): string {
  return text.split("\n").map(oneLine).join("\n");
}
